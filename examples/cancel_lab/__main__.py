from examples._run import run

from .server import app

run(app)
