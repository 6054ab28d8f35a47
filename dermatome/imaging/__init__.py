"""Operations on pixels that know no network: tiling, resampling, background, stains, augmentation, overlays."""
