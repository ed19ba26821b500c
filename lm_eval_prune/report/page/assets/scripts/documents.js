// The documents that flipped between the dense model and a row's.

async function showDocuments() {}
