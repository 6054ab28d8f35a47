"""Epidermal layers and the stains in them: the asset `epidermis_layers`."""
