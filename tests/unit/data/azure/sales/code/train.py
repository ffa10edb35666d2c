def run(mini_batch):
    return list(range(len(mini_batch)))
