//! Which methods there are, by the descriptors of what is served: for layers that treat methods differently, or name
//! them where only known names may stand.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;
use prost_types::FileDescriptorSet;

/// A method that is served.
#[derive(Debug, Clone)]
pub struct Method {
    /// `highwater.v1.JobService/GetJob`.
    pub name: Arc<str>,
    /// It answers with a stream.
    pub streams: bool,
}

/// All methods, by their paths. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Methods(Arc<HashMap<String, Method>>);

impl Methods {
    /// Those of these descriptor sets.
    pub fn of(descriptors: &[&[u8]]) -> Result<Self, prost::DecodeError> {
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

    /// All of them, each with the path that it is called by.
    pub fn all(&self) -> impl Iterator<Item = (&String, &Method)> {
        self.0.iter()
    }

    /// The method that is called by this path.
    pub fn get(&self, path: &str) -> Option<&Method> {
        self.0.get(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::pb::FILE_DESCRIPTOR_SET;

    #[test]
    fn a_method_is_known_by_its_path() {
        let methods = Methods::of(&[FILE_DESCRIPTOR_SET]).unwrap();
        let found = |path| methods.get(path).map(|method| (method.name.to_string(), method.streams));
        let unary = found("/highwater.v1.ProgressService/GetProgress");
        assert_eq!(unary, Some(("highwater.v1.ProgressService/GetProgress".to_owned(), false)));
        assert_eq!(found("/highwater.v1.ProgressService/Nothing"), None);
    }
}
