-- One row for each slide's result and each result it was computed from: the version that was used and the version that
-- is there now. Champions are not covered: see slides_not_from_champion.
create or replace view links as
with results as (
    select 'slide_images' as asset, slide, data_version, inputs from slides
    union all select 'epidermis_masks', slide, data_version, inputs from masks
    union all select 'cell_masks', slide, data_version, inputs from cell_masks
    union all select 'epidermis_layers', slide, data_version, inputs from layer_slides
    union all select 'nuclei_slides', slide, data_version, inputs from nuclei_slides
    union all select 'nucleus_maps', slide, data_version, inputs from nucleus_maps
    union all select 'til_scores', slide, data_version, inputs from til_scores
)
select r.asset, r.slide, i.key as upstream, i.value ->> '$' as version, u.data_version as version_now,
    version is not distinct from version_now as current
from results r cross join json_each(r.inputs) i left join results u on u.asset = i.key and u.slide = r.slide
where i.key in (select asset from (values ('slide_images'), ('epidermis_masks'), ('cell_masks'),
    ('epidermis_layers'), ('nuclei_slides'), ('nucleus_maps'), ('til_scores')) as per_slide(asset))
order by all;
