"""Another Ray head that is given the config of a running fleet on its standard input."""

from __future__ import annotations

import logging
import shutil
import sys

import ray

from actors import topology
from actors.ray_folder import new_folder
from forecast.config import Config
from forecast.errors import StateError


def main() -> None:
    config = Config.model_validate_json(sys.stdin.read())
    folder = new_folder()
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 << 20,
        _temp_dir=str(folder),
    )
    try:
        topology.ensure(config)
        sys.stdout.write("started")
    except StateError as error:
        sys.stdout.write(str(error))
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
