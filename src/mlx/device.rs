//! Devices: names, what is there, what MLX knows about them.

use std::ffi::CStr;

use mlx_sys as sys;

use super::error::check;
use super::{Error, Result, stream};

/// Where an operation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Gpu,
}

/// A property of a device.
#[derive(Clone, Debug, PartialEq)]
pub enum Property {
    Text(String),
    Number(usize),
}

pub(super) fn no_gpu() -> Error {
    let flavour = super::flavour();
    Error::Argument(if sys::GPU {
        format!("there is no GPU that this build ({flavour}) can use on this machine; 'cpu' is available")
    } else {
        "this build of mlx-node is for the CPU ('cpu'); docs/install.md tells how to build it for a GPU".to_string()
    })
}

impl Device {
    pub fn parse(name: &str) -> Result<Device> {
        match name {
            "cpu" => Ok(Device::Cpu),
            "gpu" => Ok(Device::Gpu),
            _ => Err(Error::Argument(format!("unknown device '{name}'; known are cpu and gpu"))),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Gpu => "gpu",
        }
    }

    /// Whether operations can be placed there.
    pub fn is_available(self) -> bool {
        self == Device::Cpu || super::device() == "gpu"
    }

    /// What MLX knows about the device, such as its name and memory; the names are MLX's.
    pub fn info(self) -> Result<Vec<(String, Property)>> {
        if !self.is_available() {
            return Err(no_gpu());
        }
        stream::ensure_started();
        let kind = match self {
            Device::Cpu => sys::mlx_device_type__MLX_CPU,
            Device::Gpu => sys::mlx_device_type__MLX_GPU,
        };
        // SAFETY: plain constructors, freed below.
        let (device, mut info, mut keys) =
            unsafe { (sys::mlx_device_new_type(kind, 0), sys::mlx_device_info_new(), sys::mlx_vector_string_new()) };
        // SAFETY: each call fills a value of ours; the texts are copied before their owners are freed.
        let properties = unsafe {
            check(sys::mlx_device_info_get(&mut info, device))
                .and_then(|()| check(sys::mlx_device_info_get_keys(&mut keys, info)))
                .and_then(|()| (0..sys::mlx_vector_string_size(keys)).map(|index| property(info, keys, index)).collect())
        };
        // SAFETY: ours, freed once.
        unsafe {
            sys::mlx_vector_string_free(keys);
            sys::mlx_device_info_free(info);
            sys::mlx_device_free(device);
        }
        properties
    }
}

/// # Safety
/// `index` is below the number of keys.
unsafe fn property(info: sys::mlx_device_info, keys: sys::mlx_vector_string, index: usize) -> Result<(String, Property)> {
    // SAFETY: MLX-C lends the key until the list is freed, and the text until the info is.
    unsafe {
        let mut key = std::ptr::null_mut();
        check(sys::mlx_vector_string_get(&mut key, keys, index))?;
        let name = CStr::from_ptr(key).to_string_lossy().into_owned();
        let mut is_text = false;
        check(sys::mlx_device_info_is_string(&mut is_text, info, key))?;
        if is_text {
            let mut text = std::ptr::null();
            check(sys::mlx_device_info_get_string(&mut text, info, key))?;
            return Ok((name, Property::Text(CStr::from_ptr(text).to_string_lossy().into_owned())));
        }
        let mut number = 0;
        check(sys::mlx_device_info_get_size(&mut number, info, key))?;
        Ok((name, Property::Number(number)))
    }
}
