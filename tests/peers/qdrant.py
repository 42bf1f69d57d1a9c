"""Qdrant's own Python client against `evalign rag serve-qdrant`: what it answers, and what it says it does not know.

    python qdrant.py http://127.0.0.1:PORT

(qdrant-client 1.16 or later, gRPC.) Ends with 1 at the first expectation that does not hold.
"""

import sys
from urllib.parse import urlparse

import grpc
from qdrant_client import QdrantClient, models


def points():
    for number in range(10):
        vector = {"dense": [1, number, 0, 2], "words": models.SparseVector(indices=[1, number + 2], values=[1, 2])}
        yield models.PointStruct(id=number, vector=vector, payload={"tag": "ab"[number % 2], "n": number})


def is_unimplemented(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code() == grpc.StatusCode.UNIMPLEMENTED
    return False


def same(found, expected):
    assert found == expected, f"{found!r} is not {expected!r}"


def describe(client, name):
    """Libraries that keep documents in Qdrant read this before they do anything."""
    config = client.get_collection(name).config
    same(config.params.vectors["dense"], models.VectorParams(size=4, distance=models.Distance.COSINE))
    same(config.params.sparse_vectors["words"].modifier, models.Modifier.IDF)
    same((config.hnsw_config.m, config.hnsw_config.ef_construct), (16, 100))
    assert config.hnsw_config.full_scan_threshold > 0 and config.optimizer_config.indexing_threshold > 0
    assert config.wal_config.wal_capacity_mb > 0 and config.optimizer_config.default_segment_number > 0


def search(client, name):
    ids = lambda found: [point.id for point in found]
    nearest = client.query_points(name, query=[1, 2, 0, 2], using="dense", limit=3).points
    same(nearest[0].id, 2)
    legs = [
        models.Prefetch(query=[1, 2, 0, 2], using="dense", limit=5),
        models.Prefetch(query=models.SparseVector(indices=[4], values=[1]), using="words", limit=5),
    ]
    fused = client.query_points(name, prefetch=legs, query=models.FusionQuery(fusion=models.Fusion.RRF), limit=3).points
    same(fused[0].id, 2)
    odd = models.FieldCondition(key="tag", match=models.MatchValue(value="b"))
    late = models.FieldCondition(key="n", range=models.Range(gte=5))
    page, following = client.scroll(name, scroll_filter=models.Filter(must=[odd, late]), limit=2)
    same((ids(page), following), ([5, 7], 9))
    same(ids(client.retrieve(name, [1, 2, 77])), [1, 2])
    client.create_payload_index(name, "tag", models.PayloadSchemaType.KEYWORD)
    same(sorted((hit.value, hit.count) for hit in client.facet(name, "tag").hits), [("a", 5), ("b", 5)])
    same(client.get_collection(name).payload_schema["tag"].data_type, models.PayloadSchemaType.KEYWORD)


def change(client, name):
    client.set_payload(name, {"seen": True}, points=[1])
    same(client.retrieve(name, [1])[0].payload["seen"], True)
    client.delete(name, points_selector=[1, 2])
    even = models.Filter(must=[models.FieldCondition(key="tag", match=models.MatchValue(value="a"))])
    client.delete(name, points_selector=models.FilterSelector(filter=even))
    same(client.count(name).count, 4)


def main():
    port = urlparse(sys.argv[1]).port
    client = QdrantClient(host="127.0.0.1", grpc_port=port, prefer_grpc=True, check_compatibility=False, timeout=30)
    dense = models.VectorParams(size=4, distance=models.Distance.COSINE)
    words = models.SparseVectorParams(modifier=models.Modifier.IDF)
    client.create_collection("c", vectors_config={"dense": dense}, sparse_vectors_config={"words": words})
    same([one.name for one in client.get_collections().collections], ["c"])
    client.upsert("c", list(points()), wait=True)
    same(client.count("c").count, 10)
    describe(client, "c")
    search(client, "c")
    change(client, "c")
    recommend = models.RecommendQuery(recommend=models.RecommendInput(positive=[3]))
    assert is_unimplemented(lambda: client.query_points("c", query=recommend, using="dense"))
    assert is_unimplemented(lambda: client.clear_payload("c", points_selector=[3]))
    assert is_unimplemented(lambda: client.create_snapshot("c"))
    client.delete_collection("c")
    assert not client.collection_exists("c")
    print("all well")


main()
