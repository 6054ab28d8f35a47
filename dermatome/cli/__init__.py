"""The command line: the same functions as in the platform, for files and folders of images."""
