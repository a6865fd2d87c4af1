"""Reference trainers: one thin module per paper, one loop for all of them, one command line.

``neurokernels train <name>`` runs `main` of the module that `TRAINERS` names. They need the extra ``train``.
"""

#: Module of each trainer; its ``main(arguments) -> exit status`` is the command.
TRAINERS = {
    "spiking": "neurokernels.trainers.spiking.command",
    "spectral": "neurokernels.trainers.spectral.command",
    "dcca": "neurokernels.trainers.dcca.command",
    "similarity": "neurokernels.trainers.similarity.command",
    "maze": "neurokernels.trainers.maze.command",
}
