def require_proof(places):
    return
