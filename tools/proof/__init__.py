"""What ``tools/gpu_proof.py`` is made of. Needs nothing but Python itself, until a step of the proof runs."""
