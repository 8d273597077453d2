"""The token of the tests' own Ray clusters: without one Ray takes the user's, or writes one to the home folder."""

import os
import secrets

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
os.environ.update(TOKEN)  # Ray reads it once, when it is first imported
