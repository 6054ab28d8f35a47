-- One row for each version of the tissue weights and each of its ancestors, itself included (generation 0).
create or replace view training_lineage as
with recursive line as (
    select version, version as ancestor, parent as next, 0 as generations from training
    union all
    select l.version, t.version, t.parent, l.generations + 1
    from line l join training t on t.version = l.next
    where l.generations < 100
)
select l.version, l.generations, l.ancestor, t.weights_sha256, t.manifest_sha256, t.mean_iou, l.next as parent
from line l join training t on t.version = l.ancestor
order by l.version, l.generations;
