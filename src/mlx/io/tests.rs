//! Files of other libraries, our own files, and damaged ones.

use std::path::PathBuf;

use half::bf16;
use serde_json::Value;

use super::*;
use crate::mlx::Dtype;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("__test__/fixtures/files")
}

/// A folder of this test's own.
fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("mlx-node-io-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn read(path: &Path) -> Result<Contents> {
    load(path, LoadOptions::default(), Progress::default())
}

fn write(path: &Path, arrays: Vec<(String, Array)>, metadata: Vec<(String, Metadata)>) -> Result<()> {
    save(path, arrays, metadata, SaveOptions::default(), Progress::default())
}

/// The bytes that the numbers of `expected.json` are in a dtype.
fn bytes_of(entry: &Value) -> Vec<u8> {
    let dtype = Dtype::parse(entry["dtype"].as_str().unwrap()).unwrap();
    let values = entry["values"].as_array().unwrap();
    let whole = |value: &Value| value.as_str().unwrap().parse::<i128>().unwrap().to_le_bytes()[..dtype.size()].to_vec();
    let bytes = |value: &Value| match dtype {
        Dtype::Bool => vec![value.as_u64().unwrap() as u8],
        Dtype::Float16 => half::f16::from_f64(value.as_f64().unwrap()).to_le_bytes().to_vec(),
        Dtype::Bfloat16 => bf16::from_f64(value.as_f64().unwrap()).to_le_bytes().to_vec(),
        Dtype::Float32 | Dtype::Complex64 => (value.as_f64().unwrap() as f32).to_le_bytes().to_vec(),
        Dtype::Float64 => value.as_f64().unwrap().to_le_bytes().to_vec(),
        _ => whole(value),
    };
    values.iter().flat_map(bytes).collect()
}

#[track_caller]
fn assert_array(array: &Array, entry: &Value, what: &str) {
    let shape: Vec<i32> = entry["shape"].as_array().unwrap().iter().map(|size| size.as_i64().unwrap() as i32).collect();
    assert_eq!(array.shape(), shape, "{what}");
    assert_eq!(array.dtype().name(), entry["dtype"], "{what}");
    assert_eq!(array.to_bytes().unwrap(), bytes_of(entry), "{what}");
}

#[test]
fn files_of_numpy_mlx_and_gguf() {
    let expected: Value = serde_json::from_slice(&std::fs::read(fixtures().join("expected.json")).unwrap()).unwrap();
    let expected = expected.as_object().unwrap();
    assert!(expected.len() >= 30, "{} fixtures", expected.len());
    for (name, file) in expected {
        let contents = read(&fixtures().join(name)).unwrap();
        let wanted = file["arrays"].as_object().unwrap();
        assert_eq!(contents.arrays.len(), wanted.len(), "{name}");
        for (key, array) in &contents.arrays {
            assert_array(array, &wanted[key], &format!("{name}: {key}"));
        }
        let Some(wanted) = file.get("metadata").and_then(Value::as_object) else { continue };
        assert_eq!(contents.metadata.len(), wanted.len(), "{name}");
        for (key, value) in &contents.metadata {
            match value {
                Metadata::Text(text) => assert_eq!(wanted[key], text.as_str(), "{name}: {key}"),
                Metadata::Texts(texts) => assert_eq!(wanted[key], Value::from(texts.clone()), "{name}: {key}"),
                Metadata::Array(array) => assert_array(array, &wanted[key], &format!("{name}: {key}")),
            }
        }
    }
}

/// An array of every dtype, one without elements and one without axes.
fn samples() -> Vec<(String, Array)> {
    let mut arrays: Vec<(String, Array)> = Dtype::ALL
        .iter()
        .map(|&dtype| {
            let bytes: Vec<u8> =
                (0..6 * dtype.size()).map(|index| if dtype == Dtype::Bool { index & 1 } else { index * 37 } as u8).collect();
            (dtype.name().to_string(), Array::from_bytes(&bytes, &[2, 3], dtype).unwrap())
        })
        .collect();
    arrays.push(("empty".into(), Array::from_slice::<f32>(&[], &[0, 3]).unwrap()));
    arrays.push(("scalar".into(), Array::scalar(2.5)));
    arrays
}

#[track_caller]
fn assert_same(contents: &Contents, arrays: &[(String, Array)]) {
    assert_eq!(contents.arrays.len(), arrays.len());
    for (name, array) in &contents.arrays {
        let (_, wanted) = arrays.iter().find(|(known, _)| known == name).unwrap();
        assert_eq!((array.shape(), array.dtype()), (wanted.shape(), wanted.dtype()), "{name}");
        assert_eq!(array.to_bytes().unwrap(), wanted.to_bytes().unwrap(), "{name}");
    }
}

#[test]
fn what_is_written_is_read_again() {
    let folder = scratch("round");
    let arrays = samples();
    for (name, array) in &arrays {
        let path = folder.join(format!("{name}.npy"));
        write(&path, vec![(String::new(), array.clone())], Vec::new()).unwrap();
        assert_same(&read(&path).unwrap(), &[(String::new(), array.clone())]);
        assert_eq!(std::fs::metadata(&path).unwrap().len() as usize % 64, array.nbytes() % 64, "the elements begin aligned");
    }
    write(&folder.join("a.npz"), arrays.clone(), Vec::new()).unwrap();
    assert_same(&read(&folder.join("a.npz")).unwrap(), &arrays);
    let options = SaveOptions { compressed: true, ..SaveOptions::default() };
    save(&folder.join("b.npz"), arrays.clone(), Vec::new(), options, Progress::default()).unwrap();
    assert_same(&read(&folder.join("b.npz")).unwrap(), &arrays);
    let text = |key: &str| (key.to_string(), Metadata::Text(format!("{key} ☃")));
    write(&folder.join("a.safetensors"), arrays.clone(), vec![text("one"), text("two")]).unwrap();
    let contents = read(&folder.join("a.safetensors")).unwrap();
    assert_same(&contents, &arrays);
    assert!(matches!(&contents.metadata[..], [(key, Metadata::Text(value)), _] if key == "one" && value == "one ☃"));
    let plain: Vec<_> =
        arrays.into_iter().filter(|(_, array)| array.dtype().is_float() || array.dtype() == Dtype::Int64).collect();
    let list = Metadata::Texts(vec!["a".into(), "b".into()]);
    let numbers = Metadata::Array(Array::from_slice(&[1u16, 2], &[2]).unwrap());
    write(&folder.join("a.gguf"), plain.clone(), vec![text("t"), ("l".into(), list), ("n".into(), numbers)]).unwrap();
    let contents = read(&folder.join("a.gguf")).unwrap();
    assert_same(&contents, &plain);
    let [_, (_, Metadata::Texts(list)), (_, Metadata::Array(numbers))] = &contents.metadata[..] else { panic!("{contents:?}") };
    assert_eq!((list.join(" "), numbers.to_vec::<u16>().unwrap()), ("a b".to_string(), vec![1, 2]));
    let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".tmp")), "{left:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn views_and_lazy_arrays_are_written_as_they_read() {
    let folder = scratch("views");
    let base = Array::from_slice(&[1i32, 2, 3, 4, 5, 6], &[2, 3]).unwrap();
    let path = folder.join("view.npy");
    write(&path, vec![(String::new(), base.transpose(&[1, 0]).unwrap())], Vec::new()).unwrap();
    assert_eq!(read(&path).unwrap().arrays[0].1.to_vec::<i32>().unwrap(), [1, 4, 2, 5, 3, 6]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[track_caller]
fn assert_refused(path: &Path, parts: &[&str]) {
    let error = read(path).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.code(), "ERR_MLX_LOAD", "{text}");
    for part in parts {
        assert!(text.contains(part), "'{part}' should be in: {text}");
    }
    assert!(text.contains(&*path.file_name().unwrap().to_string_lossy()), "{text}");
}

#[test]
fn what_mlx_does_not_have_is_refused() {
    assert_refused(&fixtures().join("objects.npy"), &["pickle"]);
    assert_refused(&fixtures().join("structured.npy"), &["structured"]);
    assert_refused(&fixtures().join("text.npy"), &["<U2"]);
    assert_refused(&fixtures().join("complex128.npy"), &["complex128"]);
}

fn npy_bytes(header: &str, elements: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(elements);
    bytes
}

#[test]
fn npy_headers_that_lie() {
    let folder = scratch("npy");
    let path = folder.join("bad.npy");
    let cases: &[(&str, &str)] = &[
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "truncated"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "follow"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", "shape"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }", "99999999999"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2147483647, 2147483647, 2147483647), }", "MLX can hold"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,), }", "shape"),
        ("{'descr': '<f4', 'fortran_order': False, }", "must all be there"),
        ("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "twice"),
        ("{'descr': '<f4', 'fortran_order': 1, 'shape': (2,)}", "header"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)", "expected"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x", "after the dictionary"),
        ("{'descr': '<f16', 'fortran_order': False, 'shape': (2,)}", "<f16"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", "pickle"),
        ("__import__('os')", "expected"),
        ("", "expected"),
    ];
    for (header, part) in cases {
        std::fs::write(&path, npy_bytes(header, &[0; 8])).unwrap();
        assert_refused(&path, &[part]);
    }
    for bytes in [
        &b""[..],
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00\x00\x00\x00\x00",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        b"PK\x03\x04 something else",
    ] {
        std::fs::write(&path, bytes).unwrap();
        assert_refused(&path, &["npy"]);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// A zip archive of these entries; names as they are, even twice.
fn archive(path: &Path, entries: &[(&str, &[u8])]) {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in entries {
        zip.start_file(*name, zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored))
            .unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

#[test]
fn archives_that_lie() {
    let folder = scratch("npz");
    let path = folder.join("bad.npz");
    let good = npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", &[0; 8]);
    for name in ["../up.npy", "/root.npy", "a/../../b.npy", "C:\\x.npy"] {
        archive(&path, &[("ok.npy", &good), (name, &good)]);
        assert_refused(&path, &["leads out"]);
    }
    archive(&path, &[("readme.txt", b"hello")]);
    assert_refused(&path, &["readme.txt", "not an .npy"]);
    archive(&path, &[("short.npy", &good[..good.len() - 1])]);
    assert_refused(&path, &["entry 'short'", "truncated"]);
    // Two entries of one name, and a changed byte under the checksum.
    archive(&path, &[("aa.npy", &good), ("ab.npy", &good)]);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = good.len() + 30 + 6;
    assert_eq!(read(&path).unwrap().arrays.len(), 2);
    bytes[at - 2] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_refused(&path, &["entry 'aa'"]);
    bytes[at - 2] ^= 1;
    let twice: Vec<usize> = (0..bytes.len() - 6).filter(|&index| &bytes[index..index + 6] == b"ab.npy").collect();
    assert_eq!(twice.len(), 2);
    twice.iter().for_each(|&index| bytes[index + 1] = b'a');
    std::fs::write(&path, &bytes).unwrap();
    assert_refused(&path, &["duplicate"]);
    let bomb = fixtures().join("bomb.npz");
    assert_eq!(read(&bomb).unwrap().arrays[0].1.size(), 2_000_000);
    let options = LoadOptions { max_bytes: Some(1_000_000), ..LoadOptions::default() };
    let error = load(&bomb, options, Progress::default()).unwrap_err();
    assert_eq!(error.code(), "ERR_MLX_LOAD");
    assert!(error.to_string().contains("maxBytes"), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn gguf_headers_that_lie() {
    let folder = scratch("gguf");
    let path = folder.join("bad.gguf");
    let good = std::fs::read(fixtures().join("mlx.gguf")).unwrap();
    let edited = |at: usize, bytes: &[u8]| {
        let mut copy = good.clone();
        copy[at..at + bytes.len()].copy_from_slice(bytes);
        copy
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"GGUF".to_vec(), "truncated"),
        (edited(0, b"GGML"), "not a GGUF file"),
        (edited(4, &1u32.to_le_bytes()), "version 1"),
        (edited(4, &3u32.to_be_bytes()), "big-endian"),
        (edited(8, &u64::MAX.to_le_bytes()), "more than"),
        (edited(16, &u64::MAX.to_le_bytes()), "more than"),
        (edited(24, &u64::MAX.to_le_bytes()), "name of"),
        (good[..good.len() - 40].to_vec(), "truncated"),
    ];
    for (bytes, part) in cases {
        std::fs::write(&path, bytes).unwrap();
        assert_refused(&path, &[part]);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// Thousands of damaged copies of the fixtures: each loads or is refused, and nothing else happens.
#[test]
fn damaged_files_are_refused_or_read() {
    let folder = scratch("fuzz");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let names = [
        "fortran.npy",
        "version_3.npy",
        "numpy.npz",
        "numpy_compressed.npz",
        "mlx.npz",
        "mlx.safetensors",
        "mixed.gguf",
        "mlx.gguf",
    ];
    let (mut loaded, mut refused) = (0, 0);
    for name in names {
        let (path, good) = (folder.join(name), std::fs::read(fixtures().join(name)).unwrap());
        for _ in 0..500 {
            let mut bytes = good.clone();
            for _ in 0..=random(3) {
                // Headers lie at the front (and in archives at the back), so that half of the damage goes there.
                let reach = if random(2) == 0 { bytes.len().min(200) } else { bytes.len() };
                let at = if name.ends_with("npz") && random(2) == 0 { bytes.len() - 1 - random(reach) } else { random(reach) };
                match random(5) {
                    0 => bytes[at] = random(256) as u8,
                    1 => bytes[at] ^= 1 << random(8),
                    2 => bytes.truncate(at.max(1)),
                    3 => bytes.insert(at, random(256) as u8),
                    _ => bytes[at..].iter_mut().take(8).for_each(|byte| *byte = 0xff),
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            match read(&path) {
                Ok(contents) => {
                    contents.arrays.iter().for_each(|(_, array)| drop(array.to_bytes().unwrap()));
                    loaded += 1;
                }
                Err(error) => {
                    assert_eq!(error.code(), "ERR_MLX_LOAD", "{name}: {error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(loaded > 100 && refused > 1000, "{loaded} loaded, {refused} refused");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_failed_or_cancelled_write_leaves_the_old_file() {
    let folder = scratch("atomic");
    let path = folder.join("a.npz");
    write(&path, vec![("x".into(), Array::scalar(1.))], Vec::new()).unwrap();
    let before = std::fs::read(&path).unwrap();
    let stop = Progress::new(|loaded, _| if loaded > 0 { Err(Error::Cancelled) } else { Ok(()) });
    let arrays = vec![("x".into(), Array::scalar(2.)), ("y".into(), Array::scalar(3.))];
    let error = save(&path, arrays, Vec::new(), SaveOptions::default(), stop).unwrap_err();
    assert_eq!(error.code(), "ERR_MLX_CANCELLED");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    let error = write(&folder.join("none/a.npz"), vec![("x".into(), Array::scalar(1.))], Vec::new()).unwrap_err();
    assert_eq!(error.code(), "ERR_MLX_SAVE");
    let twice = vec![("x".into(), Array::scalar(1.)), ("x".into(), Array::scalar(1.))];
    assert_eq!(write(&path, twice, Vec::new()).unwrap_err().code(), "ERR_MLX_ARGUMENT");
    #[cfg(target_os = "linux")]
    {
        let error = super::atomic::cannot_write(&path, std::io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(error.code(), "ERR_MLX_SAVE");
        assert!(error.to_string().contains("the disk is full"), "{error}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
