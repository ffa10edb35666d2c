"""Runs one of the benchmarks' jobs: real_job.py --job NAME."""

import sys

import jobs


def init():
    jobs.prepare(sys.argv[2])


def run(mini_batch):
    return getattr(jobs, sys.argv[2])(mini_batch)
