#!/usr/bin/env bash
# One would guess: a forward hook that keeps the output of a Falcon layer's MLP keeps what the MLP computed: the layer's
#   output minus what entered it is then attention's output plus the kept one, as in any other parallel block.
# Seen: the layer adds attention's output into the MLP's output tensor, in place (`mlp_output += attention_output`).
#   What the hook kept is the same tensor, and afterwards holds MLP plus attention; attention is in the sum twice. A
#   hook that clones keeps the MLP's own. Falcon with serial blocks and GPT-NeoX add without writing into a tensor.
# Means: direct logit attribution, ablation means and steering vectors from kept MLP outputs of Falcon 7B, 11B and 40B
#   give MLPs what attention did. Clone in the hook.
# With: transformers 5.22.2 and 5.24.0 (models/falcon/modeling_falcon.py, FalconDecoderLayer.forward), torch 2.13.0, on
#   PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 numpy
"$folder/venv/bin/python" -m pip install --quiet --target "$folder/newer" transformers==5.24.0 numpy
cat > "$folder/try.py" <<'PY'
import torch
import transformers
from transformers import FalconConfig, FalconForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
torch.manual_seed(0)
cases = {
    "Falcon 7B": FalconForCausalLM(FalconConfig(**SIZES)),
    "Falcon 40B": FalconForCausalLM(FalconConfig(**SIZES, new_decoder_architecture=True, num_kv_heads=2)),
    "Falcon, serial": FalconForCausalLM(FalconConfig(**SIZES, parallel_attn=False)),
    "GPT-NeoX, parallel": GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, intermediate_size=48)),
}
tokens = torch.randint(0, 64, (1, 8))
for name, model in cases.items():
    layer = model.transformer.h[0] if hasattr(model, "transformer") else model.gpt_neox.layers[0]
    attention = layer.self_attention if hasattr(layer, "self_attention") else layer.attention
    kept = {}
    layer.register_forward_pre_hook(lambda module, args: kept.update(entering=args[0]))
    attention.register_forward_hook(lambda module, args, output: kept.update(attention=output[0]))
    layer.mlp.register_forward_hook(lambda module, args, output: kept.update(mlp=output, clone=output.clone()))
    layer.register_forward_hook(lambda module, args, out: kept.update(leaving=out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        model.eval()(tokens)
    added = kept["leaving"] - kept["entering"] - kept["attention"]
    said = [torch.allclose(added, kept[one], atol=1e-5) for one in ("mlp", "clone")]
    print(f"{transformers.__version__} {name}: kept is what the MLP added: {said[0]}, cloned: {said[1]}")
PY
for path in "" "$folder/newer"; do
    PYTHONPATH="$path" "$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee -a "$folder/seen"
done
diff "$folder/seen" - <<'SEEN'
5.22.2 Falcon 7B: kept is what the MLP added: False, cloned: True
5.22.2 Falcon 40B: kept is what the MLP added: False, cloned: True
5.22.2 Falcon, serial: kept is what the MLP added: True, cloned: True
5.22.2 GPT-NeoX, parallel: kept is what the MLP added: True, cloned: True
5.24.0 Falcon 7B: kept is what the MLP added: False, cloned: True
5.24.0 Falcon 40B: kept is what the MLP added: False, cloned: True
5.24.0 Falcon, serial: kept is what the MLP added: True, cloned: True
5.24.0 GPT-NeoX, parallel: kept is what the MLP added: True, cloned: True
SEEN
