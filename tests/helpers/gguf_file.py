"""A GGUF file that OpenVINO reads exactly: the packaged model in Q8_0, its tokenizer beside it."""

import shutil
from pathlib import Path


def write_q8(folder: Path) -> Path:
    """`folder`/q8.gguf, a file of the packaged SmolLM2 with every matrix in Q8_0."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize, quantize

    from bezoar.model.resolve import PACKAGED, package_folder, resolve_model

    name = "smollm2-135m-instruct"
    source = GGUFReader(package_folder(name) / PACKAGED[name][1])
    writer = GGUFWriter(folder / "q8.gguf", source.fields["general.architecture"].contents())
    for key, stored in source.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind, is_list = stored.types[0], stored.types[0] == GGUFValueType.ARRAY
            inner = stored.types[1] if is_list else None
            writer.add_key_value(key, stored.contents(), kind, inner)
    for tensor in source.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        matrix = GGMLQuantizationType.Q8_0 if values.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, quantize(values, matrix), raw_dtype=matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for file in resolve_model(name).iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    return folder / "q8.gguf"
