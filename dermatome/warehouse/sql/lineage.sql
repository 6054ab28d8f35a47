-- One row for each skin slide: what its last result was computed from. Where any link is outdated, the slide is not
-- current, and what was replaced since is null, so that no image or mask is named that a number does not come from.
create or replace view lineage as
with linked as (
    select slide, bool_and(current) as current, bool_and(current) filter (upstream = 'slide_images') as image,
        bool_and(current) filter (upstream = 'epidermis_masks') as mask,
        bool_and(current) filter (upstream = 'cell_masks') as cells
    from links where upstream in ('slide_images', 'epidermis_masks', 'cell_masks') group by slide
)
select s.slide, s.gene, h.current is not false as current, i.location, i.image_sha256, i.mpp, i.mpp_source,
    m.weights as tissue_weights, m.weights_sha256 as tissue_weights_sha256, m.code_version as mask_code,
    m.run_id as mask_run, k.weights as cell_weights, k.weights_sha256 as cell_weights_sha256,
    k.code_version as cell_code, k.run_id as cell_run, l.code_version as layer_code, l.run_id as layer_run,
    m.settings as mask_settings, k.settings as cell_settings, l.settings as layer_settings
from slides s
    left join linked h using (slide)
    left join slides i on i.slide = s.slide and h.image is not false
    left join masks m on m.slide = s.slide and h.mask is not false
    left join cell_masks k on k.slide = s.slide and h.cells is not false
    left join layer_slides l on l.slide = s.slide
order by s.slide;
