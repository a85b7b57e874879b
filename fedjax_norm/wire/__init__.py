"""Split learning between processes over gRPC and TLS (paper 003, sec. 4).

The paper calls a client Alice and the server Bob. The modules need the packages of the ``wire``
extra, and only this package and ``cli/wire`` import them.
"""
