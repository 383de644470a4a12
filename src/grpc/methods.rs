//! The methods of the server, which are read from the descriptors of its services. Layers use this list to recognize
//! streams, and to limit metric labels to known methods.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;
use prost_types::FileDescriptorSet;

/// A method of the server.
#[derive(Debug, Clone)]
pub struct Method {
    /// The full name, such as `highwater.v1.JobService/GetJob`.
    pub name: Arc<str>,
    /// Whether the response is a stream.
    pub streams: bool,
}

/// All methods of the server, by path. A clone is cheap.
#[derive(Debug, Clone)]
pub struct Methods(Arc<HashMap<String, Method>>);

impl Methods {
    /// Reads the methods of all services in these encoded descriptor sets.
    pub fn from_descriptors(descriptors: &[&[u8]]) -> Result<Self, prost::DecodeError> {
        let mut methods = HashMap::new();
        for encoded in descriptors {
            for file in FileDescriptorSet::decode(*encoded)?.file {
                for service in &file.service {
                    for method in &service.method {
                        let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                        let streams = method.server_streaming();
                        methods.insert(format!("/{name}"), Method { name: name.into(), streams });
                    }
                }
            }
        }
        Ok(Self(Arc::new(methods)))
    }

    /// Returns all methods with their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Method)> {
        self.0.iter()
    }

    /// Returns the method with this path, such as `/highwater.v1.JobService/GetJob`.
    pub fn get(&self, path: &str) -> Option<&Method> {
        self.0.get(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::pb::FILE_DESCRIPTOR_SET;

    #[test]
    fn method_is_found_by_path() {
        let methods = Methods::from_descriptors(&[FILE_DESCRIPTOR_SET]).unwrap();
        let found = |path| methods.get(path).map(|method| (method.name.to_string(), method.streams));
        let unary = found("/highwater.v1.ProgressService/GetProgress");
        assert_eq!(unary, Some(("highwater.v1.ProgressService/GetProgress".to_owned(), false)));
        assert_eq!(found("/highwater.v1.ProgressService/Nothing"), None);
    }
}
