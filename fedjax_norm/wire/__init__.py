"""Split learning between processes over gRPC and TLS (paper 003, sec. 4).

The paper calls a client Alice and the server Bob. In each round every client has one turn: it
trains with the server, and then hands its weights over to the next client (the hand-over). These
modules need the packages of the extra ``wire``; only this package and ``cli/wire`` import them.
"""
