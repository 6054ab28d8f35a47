-- Staining by gene and layer. An antibody can be on the pages of several genes, and its images count for each of them.
-- Slides whose layers are not current (see lineage) do not count: a mean of old and new images describes neither.
create view dab_profile_by_gene as
with genes as (
    select distinct i.slide, i.gene, i.ensembl_id
    from images i join slides s using (slide) where s.origin is distinct from 'folder'
    union
    select s.slide, s.gene, s.ensembl_id from slides s
    where s.origin = 'folder' or not exists (select 1 from images i where i.slide = s.slide)
)
select g.gene, g.ensembl_id, l.layer, count(distinct l.slide) as slides, sum(l.cells) as cells,
    avg(l.mean_dab_od) as mean_dab_od, stddev_samp(l.mean_dab_od) as sd_dab_od, avg(l.mean_h_od) as mean_h_od,
    avg(l.dab_h_ratio) as dab_h_ratio, avg(l.h_score) as h_score
from layers l semi join (select slide from lineage where current) using (slide) join genes g using (slide)
group by all
order by gene, layer;
