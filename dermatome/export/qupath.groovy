// Outlines of Dermatome for QuPath 0.4 and later.
// 1. Create a project and add the images of this folder.  2. Automate > Script editor, open this file.
// 3. Run > Run for project, choose all images.  Run again, it replaces the outlines and nothing else.
import qupath.lib.io.PathIO

def colours = [
@COLOURS@
]
// Images whose file states no scale: microns per pixel.
def mpp = [
@MPP@
]
def types = [
@TYPES@
]

def image = new File(getCurrentServer().getURIs().iterator().next())
def stem = image.getName().take(image.getName().lastIndexOf('.'))
if (!types.containsKey(stem)) {
    println stem + ' is not an image of this export'
    return
}
setImageType(types[stem])
if (mpp.containsKey(stem))
    setPixelSizeMicrons(mpp[stem], mpp[stem])
for (kind in ['tissue', 'layers', 'cells', 'nuclei']) {
    def file = new File(image.getParentFile(), stem + '.' + kind + '.geojson')
    if (!file.exists())
        continue
    def objects = PathIO.readObjects(file.toPath())
    def ids = objects.collect { it.getID() } as Set
    def earlier = getAnnotationObjects() + getDetectionObjects()
    removeObjects(earlier.findAll { ids.contains(it.getID()) }, true)
    addObjects(objects)
    println stem + ': ' + objects.size() + ' ' + kind
}
colours.each { name, rgb -> getPathClass(name).setColor(getColorRGB(rgb[0], rgb[1], rgb[2])) }
fireHierarchyUpdate()
