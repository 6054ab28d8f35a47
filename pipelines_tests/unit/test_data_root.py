"""The layout of a data root."""

import pytest

from dermatome.errors import BadSetting
from dermatome.storage.layout import DataRoot


def test_an_address_is_not_a_data_root():
    with pytest.raises(BadSetting, match=r"mount it as a folder"):
        DataRoot.at("s3://bucket/data")
