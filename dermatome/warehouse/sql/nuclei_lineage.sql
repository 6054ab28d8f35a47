-- The same as lineage for H&E slides. A TIL score does not record its image, so the image is named only where every
-- link is current.
create or replace view nuclei_lineage as
with linked as (
    select slide, bool_and(current) as current, bool_and(current) filter (upstream = 'nucleus_maps') as maps
    from links where upstream in ('nuclei_slides', 'nucleus_maps') group by slide
)
select s.slide, h.current is not false as current, i.location, i.image_sha256, i.mpp, i.mpp_source,
    coalesce(t.weights, m.weights) as weights, coalesce(t.weights_sha256, m.weights_sha256) as weights_sha256,
    m.code_version as map_code, m.run_id as map_run, t.code_version as til_code, t.run_id as til_run,
    m.settings as map_settings, t.settings as til_settings
from nuclei_slides s
    left join linked h using (slide)
    left join nuclei_slides i on i.slide = s.slide and h.current is not false
    left join nucleus_maps m on m.slide = s.slide and h.maps is not false
    left join til_scores t on t.slide = s.slide
order by s.slide;
