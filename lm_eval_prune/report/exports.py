EXPORTS = {}


def write_exports(board, folder, export):
    return []
