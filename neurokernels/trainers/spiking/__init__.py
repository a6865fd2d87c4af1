"""The digit network of Gerum & Schilling 2021."""
