"""Measurements: quality of the methods, speed, and large configs on TPUs.

python -m benchmarks.speed.NAME --help
python -m benchmarks.tpu.plan --help
python -m benchmarks.tables
"""
