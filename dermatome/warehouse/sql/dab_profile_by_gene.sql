-- Staining by gene, antibody, and layer or zone: mean and standard deviation over patients (see dab_by_patient), beside
-- HPA's annotation of the antibody in skin.
create or replace view dab_profile_by_gene as
with counted as (select gene, count(distinct antibody) as antibodies from dab_by_patient group by gene)
select p.gene, p.ensembl_id, p.antibody, c.antibodies, p.layer, p.zone, count(p.patient) as patients,
    sum(p.slides) as slides, count(*) filter (p.patient is null) as slides_of_unknown_patient, sum(p.cells) as cells,
    avg(p.mean_dab_od) as mean_dab_od, stddev_samp(p.mean_dab_od) as sd_dab_od, avg(p.mean_h_od) as mean_h_od,
    avg(p.dab_h_ratio) as dab_h_ratio, avg(p.positive_share) as positive_share, avg(p.h_score) as h_score,
    stddev_samp(p.h_score) as sd_h_score, string_agg(distinct p.tissue, '; ' order by p.tissue) as tissue,
    string_agg(distinct p.staining, '; ' order by p.staining) as staining,
    string_agg(distinct p.intensity, '; ' order by p.intensity) as intensity,
    string_agg(distinct p.quantity, '; ' order by p.quantity) as quantity
from dab_by_patient p join counted c on c.gene is not distinct from p.gene
group by p.gene, p.ensembl_id, p.antibody, c.antibodies, p.layer, p.zone
order by p.gene, p.antibody, p.layer, p.zone;
