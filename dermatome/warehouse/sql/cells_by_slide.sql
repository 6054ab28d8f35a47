-- Cell counts and means for each slide, and whether its mask and cells are current (see links).
create or replace view cells_by_slide as
with replaced as (
    select distinct slide, false as current
    from links where not current and asset in ('epidermis_masks', 'cell_masks')
)
select s.slide, s.gene, coalesce(r.current, k.slide is not null) as current, k.outcome,
    coalesce(k.cells, 0) as cells, k.cells_per_mm2, avg(c.area_um2) as mean_area_um2,
    avg(c.mean_dab_od) as mean_dab_od
from slides s
    left join cell_masks k using (slide)
    left join cells c using (slide)
    left join replaced r using (slide)
group by all
order by s.slide;
