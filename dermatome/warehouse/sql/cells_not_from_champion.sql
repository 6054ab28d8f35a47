-- Slides whose cells were segmented with other weights than the cell champion.
create or replace view cells_not_from_champion as
select k.slide, k.weights, k.weights_sha256, c.version as champion, c.weights_sha256 as champion_sha256
from cell_masks k cross join cell_champion c
where k.weights_sha256 <> c.weights_sha256
order by slide;
