-- Staining of one patient by layer and by zone, for each gene and antibody. A patient's slides are averaged here, so that
-- statistics over these rows are over patients. An antibody can be on the pages of several genes and counts for each.
-- A slide of an unknown patient is a row of its own. Slides whose layers are not current (see lineage) do not count.
create or replace view dab_by_patient as
with samples as (
    select i.slide, i.gene, i.ensembl_id, i.antibody, any_value(i.patient_id) as patient,
        string_agg(distinct i.tissue, '; ' order by i.tissue) as tissue, any_value(i.staining) as staining,
        any_value(i.intensity) as intensity, any_value(i.quantity) as quantity
    from images i join slides s using (slide) where s.origin is distinct from 'folder' group by all
    union all by name
    select s.slide, s.gene, s.ensembl_id from slides s
    where s.origin = 'folder' or not exists (select 1 from images i where i.slide = s.slide)
),
parts as (
    select slide, layer, cells, mean_dab_od, mean_h_od, dab_h_ratio, positive_share, h_score from layers
    union all by name
    select slide, zone, mean_dab_od, mean_h_od, dab_h_ratio, positive_share, h_score from zones
)
select gene, ensembl_id, antibody, patient, layer, zone, count(*) as slides, sum(cells) as cells,
    avg(mean_dab_od) as mean_dab_od, avg(mean_h_od) as mean_h_od, avg(dab_h_ratio) as dab_h_ratio,
    avg(positive_share) as positive_share, avg(h_score) as h_score,
    string_agg(distinct tissue, '; ' order by tissue) as tissue,
    string_agg(distinct staining, '; ' order by staining) as staining,
    string_agg(distinct intensity, '; ' order by intensity) as intensity,
    string_agg(distinct quantity, '; ' order by quantity) as quantity
from samples join parts using (slide) semi join (select slide from lineage where current) using (slide)
where layer is not null or zone is not null
group by gene, ensembl_id, antibody, patient, if(patient is null, slide, null), layer, zone
order by gene, antibody, patient, layer, zone;
