-- Slides whose epidermis mask was computed with other weights than the tissue champion.
create or replace view slides_not_from_champion as
select m.slide, m.weights, m.weights_sha256, c.version as champion, c.weights_sha256 as champion_sha256
from masks m cross join champion c
where m.weights_sha256 <> c.weights_sha256
order by slide;
