"""Servers for the tests: llama.cpp's own with a tiny model, and a small stub with faults to choose from."""

import json
import os
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from openai import OpenAI

# ---- llama.cpp


def needed(name):
    """Import a package that a test needs; without it the test is skipped, or fails where it is required."""
    if "server" in os.environ.get("RSF_REQUIRE", "").split(","):
        return __import__(name)
    return pytest.importorskip(name)


PARTS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def write_gguf(model, letters, file):
    """Write a GPT-2 of transformers, one token a letter and then the end, as llama.cpp reads it."""
    gguf = needed("gguf")
    config, writer = model.config, gguf.GGUFWriter(file, "gpt2")
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*letters, "<end>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * len(letters) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["\u0120 \u0120"])  # one is needed, of what is never written
    writer.add_eos_token_id(len(letters))
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for one in messages %}{{ one['content'] }}{% endfor %}")
    names = {
        "transformer.wte": "token_embd",
        "transformer.wpe": "position_embd",
        "transformer.ln_f": "output_norm",
        "lm_head": "output",
    }
    for i in range(config.n_layer):
        names |= {f"transformer.h.{i}.{ours}": f"blk.{i}.{theirs}" for ours, theirs in PARTS.items()}
    for name, weight in model.state_dict().items():
        part, kind = name.rsplit(".", 1)
        values = weight.float().numpy()
        values = values.T if ".c_" in part else values  # GPT-2's are (in, out)
        writer.add_tensor(f"{names[part]}.{kind}", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def llama_server(file):
    """Serve a model on the loopback with one slot, in float32, and yield the address."""
    llama = needed("xllamacpp")
    params = llama.CommonParams()
    params.model.path = str(file)
    params.n_parallel = params.cpuparams.n_threads = 1
    params.warmup = False
    params.verbosity = -1
    params.cache_type_k = params.cache_type_v = llama.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = llama.Server(params)
    yield f"{server.listening_address}/v1"
    del server


# ---- a stub

WORDS = ["a", "b", "c", ""]  # the last is the end
Q = np.array([0.5, 0.2, 0.2, 0.1])


class Stub(ThreadingHTTPServer):
    """Writes words of law Q by the seed that a request gives; `faults` say what goes wrong.

    shared_seed : one stream of coins for all requests, which each begins anew
    ignores : names of parameters that it does not heed
    legacy, no_log_probability : how it gives log probabilities
    choices : how many it gives
    fails : {number of a request: HTTP status}; instead of the status "dies" cuts the line, and "late" is 500
        after two seconds
    slow : seconds for each answer
    """

    daemon_threads = True

    def __init__(self, **faults):
        self.faults = {"ignores": (), "choices": 1, "fails": {}, "slow": 0} | faults
        self.requests, self.lock, self.coins = [], threading.Lock(), None
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        pass  # a client that gave up

    def client(self, **options):
        return OpenAI(base_url=self.url, api_key="none", **{"max_retries": 0} | options)

    def answer(self, asked):
        """Return the answer to what was asked."""
        heeded = {name: value for name, value in asked.items() if name not in self.faults["ignores"]}
        greedy = (
            heeded.get("temperature") == 0
            or heeded.get("top_k") == 1
            or heeded.get("min_p") == 1
            or heeded.get("top_p", 1) < 1e-3
        )
        coins = np.random.default_rng(heeded.get("seed", 5))
        self.coins = coins
        said, log_q, reason = [], [], "length"
        for _ in range(heeded.get("max_tokens", 64)):
            if self.faults.get("shared_seed"):
                time.sleep(0.001)
                coins = self.coins
            word = int(np.argmax(Q)) if greedy else int(np.searchsorted(Q.cumsum(), coins.random()))
            said.append(WORDS[word])
            log_q.append(float(np.log(Q[word])))
            if word == 3:
                reason = "stop"
                break
        text = "".join(said)
        logprobs = {"content": [{"token": t, "logprob": x} for t, x in zip(said, log_q, strict=True)]}
        if self.faults.get("legacy"):
            logprobs = {"tokens": said, "token_logprobs": log_q}
        if self.faults.get("no_log_probability"):
            logprobs = None
        chat = {"message": {"role": "assistant", "content": text}} if "messages" in asked else {"text": text}
        choice = chat | {"index": 0, "logprobs": logprobs, "finish_reason": reason}
        choice |= self.faults.get("says", {})
        return {
            "id": "1",
            "object": "text_completion",
            "created": 0,
            "model": asked["model"],
            "choices": [choice] * self.faults["choices"],
            "usage": {"completion_tokens": len(said), "prompt_tokens": 1, "total_tokens": 1 + len(said)},
        }


class Handler(BaseHTTPRequestHandler):
    """One request of the stub."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet, or each answer takes 40 ms

    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            status = self.server.faults["fails"].get(len(self.server.requests), 200)
            self.server.requests.append(asked | {"path": self.path})
        time.sleep(self.server.faults["slow"])
        if status == "late":
            time.sleep(2)
            status = 500
        if status == "dies":
            self.server.faults["fails"] = dict.fromkeys(range(10**5), "dies")
            self.close_connection = True
            return
        answer = self.server.answer(asked) if status == 200 else {"error": {"message": "not now"}}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def stub(**faults):
    """Run a stub, and stop it."""
    server = Stub(**faults)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
