"""The weights of a Qwen2.5 GGUF file in another type, for bench/llama.mjs. Needs PyPI's gguf.

Usage: gguf_of.py IN.gguf OUT.gguf f32|f16|q8_0|q4_0. Matrices take the type, norms and biases stay float32. The file's own output matrix
serves as the embedding too, as in a Hugging Face folder with tied embeddings."""

import sys

import numpy
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize

FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7}  # llama.cpp's llama_ftype
source, target, kind = sys.argv[1:]
kind_of_matrices = GGMLQuantizationType[kind.upper()]
reader = GGUFReader(source)
writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
for name, field in reader.fields.items():
    if name.startswith("GGUF.") or name == "general.architecture":
        continue
    value = FILE_TYPES[kind] if name == "general.file_type" else field.contents()
    items = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
    writer.add_key_value(name, value, field.types[0], sub_type=items)
tensors = {tensor.name: tensor for tensor in reader.tensors}
tied = tensors.pop("output.weight", None)
for name, tensor in tensors.items():
    if name == "token_embd.weight" and tied is not None:
        tensor = tied
    numbers = dequantize(tensor.data, tensor.tensor_type).reshape([int(size) for size in tensor.shape][::-1])
    numbers = numpy.ascontiguousarray(numbers, dtype=numpy.float32)
    if numbers.ndim == 1:
        writer.add_tensor(name, numbers)
    elif kind == "f32" or kind == "f16":
        writer.add_tensor(name, numbers.astype(numpy.float16 if kind == "f16" else numpy.float32))
    else:
        writer.add_tensor(name, quantize(numbers, kind_of_matrices), raw_dtype=kind_of_matrices)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
