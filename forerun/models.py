"""Names of models, as people give them, to what a worker can load."""

from worker.settings import SUFFIX

ZOO = "zoo:"


def model_folder(name: str) -> str:
    """The folder of a zoo model ("zoo:code", "zoo:target@deep"); any other name, folder or hub id, as it is. Behind
    "suffix:" stands such a name, too.

    A cost-padded model is written to the cache the first time it is asked for.

    Raises:
        UnknownNameError: The zoo has no such model.
    """
    if name.startswith(SUFFIX):
        return SUFFIX + model_folder(name.removeprefix(SUFFIX))
    if not name.startswith(ZOO):
        return name
    from zoo.catalog import resolve

    return str(resolve(name))
