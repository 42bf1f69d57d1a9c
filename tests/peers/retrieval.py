"""Hybrid search beside llama-index-core and qdrant-client's local mode: the same collection, embedding model, precision
and threads.

    python retrieval.py llama-index|qdrant-local BEIR ONNX_DIR [--threads N]     ingest, then every query, top 10
    python retrieval.py evalign BEIR BINARY [--embedder REF] [--threads N]
    python retrieval.py both BEIR ONNX_DIR BINARY [--embedder REF] [--threads N] [--rounds R]   all three in turns

Needs llama-index-core, llama-index-retrievers-bm25, fastembed, qdrant-client. ONNX_DIR holds model.onnx (f32) of all-MiniLM-L6-v2 and
its four tokenizer files, with `model_max_length` 256: both sides read as much of a document. llama-index: vectors in memory, BM25Retriever, reciprocal rank fusion of 10 and 10, no language
model; embedding by fastembed's ONNX session in batches of 32. qdrant-local: a collection in memory, fastembed's vectors and
its BM25 as sparse vectors with the IDF modifier, 10 and 10 fused by reciprocal ranks. evalign: `rag eval --mode hybrid`, 100 and 100 fused, all
vectors scanned, loading of documents and writing to disk included. A query's time is embedding, both searches and
fusion. Peak memory is the process's `VmHWM`, loading the model included.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def collection(directory):
    documents = [(row["_id"], f"{row['title']} {row['text']}" if row.get("title") else row["text"]) for row in lines(f"{directory}/corpus.jsonl")]
    judged = {}
    with open(f"{directory}/qrels/test.tsv", encoding="utf-8") as file:
        for row in file.read().splitlines()[1:]:
            query, document, score = row.split("\t")
            judged.setdefault(query, {})[document] = int(score)
    queries = [(row["_id"], row["text"]) for row in lines(f"{directory}/queries.jsonl")]
    return documents, [query for query in queries if any(score > 0 for score in judged.get(query[0], {}).values())], judged


def ndcg10(ranking, judged):
    def gain(grades):
        return sum(grade / math.log2(rank + 2) for rank, grade in enumerate(grades[:10]))

    ideal = gain(sorted((grade for grade in judged.values() if grade > 0), reverse=True))
    return gain([max(judged.get(document, 0), 0) for document in ranking]) / ideal


def peak_mib(pid="self"):
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def minilm(onnx, threads):
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model="local/minilm", pooling=PoolingType.MEAN, normalization=True, sources=ModelSource(hf="local/minilm"), dim=384, model_file="model.onnx"
    )
    return TextEmbedding("local/minilm", specific_model_path=onnx, threads=threads)


def qdrant_local(beir, onnx, threads):
    from bm25s.stopwords import STOPWORDS_EN_PLUS
    from fastembed.sparse.bm25 import Bm25
    from qdrant_client import QdrantClient, models

    model, words = minilm(onnx, threads), Bm25("Qdrant/bm25", specific_model_path=onnx, stopwords=set(STOPWORDS_EN_PLUS))
    sparse = lambda vector: models.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())
    documents, queries, judged = collection(beir)
    start = time.perf_counter()
    client = QdrantClient(":memory:")
    client.create_collection(
        "documents",
        vectors_config={"meaning": models.VectorParams(size=384, distance=models.Distance.COSINE)},
        sparse_vectors_config={"words": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    for first in range(0, len(documents), 32):
        texts = [text or " " for _, text in documents[first : first + 32]]
        vectors = zip(model.embed(texts, batch_size=32), words.embed(texts))
        points = [models.PointStruct(id=first + n, vector={"meaning": dense.tolist(), "words": sparse(bm25)}) for n, (dense, bm25) in enumerate(vectors)]
        client.upsert("documents", points)
    ingest = time.perf_counter() - start
    latencies, quality = [], []
    for name, text in queries:
        start = time.perf_counter()
        legs = [
            models.Prefetch(query=next(iter(model.embed([text]))).tolist(), using="meaning", limit=10),
            models.Prefetch(query=sparse(next(iter(words.query_embed(text)))), using="words", limit=10),
        ]
        found = client.query_points("documents", prefetch=legs, query=models.FusionQuery(fusion=models.Fusion.RRF), limit=10).points
        latencies.append(time.perf_counter() - start)
        quality.append(ndcg10([documents[point.id][0] for point in found], judged[name]))
    return measured("qdrant-client local mode", ingest, latencies, quality, peak_mib())


def llama_index(beir, onnx, threads):
    from llama_index.core import Settings, VectorStoreIndex
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.llms import MockLLM
    from llama_index.core.retrievers import QueryFusionRetriever
    from llama_index.core.schema import TextNode
    from llama_index.retrievers.bm25 import BM25Retriever

    model = minilm(onnx, threads)

    class FastEmbed(BaseEmbedding):
        def _get_text_embeddings(self, texts):
            return [vector.tolist() for vector in model.embed(texts, batch_size=32)]

        def _get_text_embedding(self, text):
            return self._get_text_embeddings([text])[0]

        _get_query_embedding = _get_text_embedding

        async def _aget_query_embedding(self, query):
            return self._get_query_embedding(query)

    Settings.llm = MockLLM()
    Settings.embed_model = FastEmbed(embed_batch_size=32)
    documents, queries, judged = collection(beir)
    start = time.perf_counter()
    nodes = [TextNode(id_=name, text=text or " ") for name, text in documents]
    index = VectorStoreIndex(nodes)
    words = BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=10)
    both = QueryFusionRetriever(
        [index.as_retriever(similarity_top_k=10), words], similarity_top_k=10, num_queries=1, mode="reciprocal_rerank", use_async=False
    )
    ingest = time.perf_counter() - start
    latencies, quality = [], []
    for name, text in queries:
        start = time.perf_counter()
        found = both.retrieve(text)
        latencies.append(time.perf_counter() - start)
        quality.append(ndcg10([hit.node.node_id for hit in found], judged[name]))
    return measured("llama-index", ingest, latencies, quality, peak_mib())


def measured(name, ingest, latencies, quality, mib):
    latencies = sorted(latencies)
    return {
        "system": name,
        "ingest_s": round(ingest, 2),
        "query_p50_ms": round(statistics.median(latencies) * 1e3, 2),
        "query_p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1e3, 2),
        "ndcg@10": round(statistics.mean(quality), 4),
        "peak_mib": round(mib),
        "n_queries": len(latencies),
    }


def evalign(beir, binary, embedder, threads):
    with tempfile.TemporaryDirectory() as home:
        models = os.path.join(os.environ.get("EVALIGN_HOME", os.path.expanduser("~/.local/share/evalign")), "models")
        if os.path.isdir(models):
            os.symlink(models, f"{home}/models")
        command = [binary, "rag", "eval", "--beir", beir, "--mode", "hybrid", "--store", "edge", "--threads", str(threads), "--json"]
        command += ["--embedder", embedder] if embedder else []
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "EVALIGN_HOME": home})
        peak = 0.0

        def watch():
            nonlocal peak
            while process.poll() is None:
                try:
                    peak = max(peak, peak_mib(process.pid))
                except (OSError, StopIteration):
                    return
                time.sleep(0.02)

        watcher = threading.Thread(target=watch)
        watcher.start()
        out = process.communicate()[0]
        watcher.join()
        if process.returncode:
            sys.exit(f"evalign ended with {process.returncode}")
        report = json.loads(out)
    seconds = report["seconds"]
    return {
        "system": f"evalign ({report['embedder']})",
        "ingest_s": round(seconds["ingest"], 2),
        "query_p50_ms": round(seconds["query_p50"] * 1e3, 2),
        "query_p99_ms": round(seconds["query_p99"] * 1e3, 2),
        "ndcg@10": round(report["metrics"]["ndcg@10"], 4),
        "peak_mib": round(peak),
        "n_queries": report["n_queries"],
    }


PEERS = {"llama-index": llama_index, "qdrant-local": qdrant_local}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*PEERS, "evalign", "both"])
    parser.add_argument("beir")
    parser.add_argument("places", nargs="+", help="ONNX_DIR, BINARY, or both")
    parser.add_argument("--embedder")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    if args.what in PEERS:
        print(json.dumps(PEERS[args.what](args.beir, args.places[0], args.threads)))
    elif args.what == "evalign":
        print(json.dumps(evalign(args.beir, args.places[0], args.embedder, args.threads)))
    else:
        onnx, binary = args.places
        for _ in range(args.rounds):
            for peer in PEERS:
                # In a process of its own: its memory is its own.
                subprocess.run([sys.executable, __file__, peer, args.beir, onnx, "--threads", str(args.threads)], check=True)
            print(json.dumps(evalign(args.beir, binary, args.embedder, args.threads)), flush=True)


if __name__ == "__main__":
    main()
