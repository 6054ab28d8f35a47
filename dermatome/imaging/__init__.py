"""Operations on pixels without networks: tiling, resampling, background, stains, augmentation, overlays."""
