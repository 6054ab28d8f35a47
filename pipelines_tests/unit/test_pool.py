"""Who gets which key, and what becomes of a dead worker's, with workers that are only played."""

import pytest

from dermatome.pipeline.pool import DEATHS_IN_A_ROW, Died, Member, Pool, Wants
from dermatome.pipeline.work import Finished, WorkerDied


class Played(Pool[Member]):
    """Workers that finish every key but those beginning with x, which kill them; ``broken`` ones die of any."""

    worker_name = "played worker"

    def __init__(self, seats, keys, broken=False):
        super().__init__(seats, keys)
        self.broken, self.said, self.started = broken, [], 0

    def start(self, seat):
        self.started += 1
        member = Member(seat=seat)
        self.said.append((member, Wants()))
        return member

    def heard(self, members):
        assert self.said, "somebody would be waited for for ever"
        said, self.said = self.said, []
        return [(one, message) for one, message in said if one in members]

    def tell(self, member, key):
        if key is None:
            return
        if self.broken or key.startswith("x"):
            self.said.append((member, Died("died")))
        else:
            self.said += [(member, Finished(key, key.upper(), None)), (member, Wants())]

    def stop(self, *, cancel):
        raise AssertionError


@pytest.mark.parametrize("killers", [5, DEATHS_IN_A_ROW - 1])
def test_killer_slides_in_a_row_fail_alone(killers):
    keys = [f"x{n}" for n in range(killers)]
    pool = Played(1, [*keys, "a", "b"])
    found = {one.key: one for one in pool.results()}
    assert sorted(key for key, one in found.items() if one.error) == keys
    assert (found["a"].result, found["b"].result) == ("A", "B")
    assert "alone" in str(found["x0"].error)


def test_workers_that_die_of_anything_end_the_run():
    pool = Played(1, [f"k{n}" for n in range(100)], broken=True)
    with pytest.raises(WorkerDied, match=f"{DEATHS_IN_A_ROW} times in a row"):
        list(pool.results())
    assert pool.started <= 2 * DEATHS_IN_A_ROW
