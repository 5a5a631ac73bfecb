"""The machinery: frames, processes, sockets, settings. Knows no camera, model or algorithm.

In this order the files are read best:

1. `stage.py`, `context.py` and `frame.py`: what the author of a stage needs; `testing.py` tests it.
2. `errors.py`, `messages.py`, `urls.py`, `status.py`: errors, texts, and the state of a run.
3. `config.py`: the settings file. `graph/`: from the settings to a plan; `build.py` comes first.
4. `memory/`: shared memory; `arena.py` holds the slots of a stream and its ledger.
5. `edge.py`: sockets between workers. `telemetry/`: counters, traces and logs.
6. `worker/`: the process of one stage or several. `supervisor/`: starts and restarts workers.
7. `commands/`: the commands of `run.py`. `service/`: systemd. `bench.py`: measurements.
"""
