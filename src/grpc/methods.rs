//! The methods of the server, which are read from the descriptors of its services. Layers use this list to recognize
//! streams, to limit messages, and to limit metric labels to known methods.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto};

/// The methods whose requests can have thousands of elements. The setting `--max-message-size` limits their requests.
const BULK_METHODS: [&str; 2] = ["highwater.v1.ReportService/ReportResults", "highwater.v1.JobService/AddTasks"];

/// The maximum size of all other requests with repeated fields, such as a thousand job IDs.
const MAX_LIST_BYTES: usize = 256 << 10;

/// The maximum size of requests without repeated fields, such as a job ID and a page token.
const MAX_SINGLE_BYTES: usize = 16 << 10;

/// A method of the server.
#[derive(Debug, Clone)]
pub struct Method {
    /// The full name, such as `highwater.v1.JobService/GetJob`.
    pub name: Arc<str>,
    /// Whether the response is a stream.
    pub streams: bool,
    /// The kind of the request's messages.
    pub input: MessageKind,
}

/// The properties of a request's messages from which their limits follow. The default is the smallest message.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessageKind {
    /// Whether the request is a stream of messages.
    pub is_streamed: bool,
    /// Whether a message can contain a list of numbers.
    pub has_packed: bool,
    size: Size,
}

#[derive(Debug, Clone, Copy, Default)]
enum Size {
    #[default]
    Single,
    List,
    Bulk,
}

/// All methods of the server, by path. A clone is cheap.
#[derive(Debug, Clone)]
pub struct Methods(Arc<HashMap<String, Method>>);

impl MessageKind {
    /// Returns the maximum size of a message in bytes. Returns `None` if only the setting limits it.
    pub fn max_bytes(self) -> Option<usize> {
        match self.size {
            Size::Bulk => None,
            Size::List => Some(MAX_LIST_BYTES),
            Size::Single => Some(MAX_SINGLE_BYTES),
        }
    }

    fn new(name: &str, method: &MethodDescriptorProto, inputs: &HashMap<String, DescriptorProto>) -> Self {
        let fields = inputs.get(method.input_type()).map(|input| &input.field[..]).unwrap_or_default();
        let repeated = || fields.iter().filter(|field| field.label() == Label::Repeated);
        Self {
            is_streamed: method.client_streaming(),
            has_packed: repeated().any(is_number),
            size: match repeated().next() {
                _ if BULK_METHODS.contains(&name) => Size::Bulk,
                Some(_) => Size::List,
                None => Size::Single,
            },
        }
    }
}

fn is_number(field: &FieldDescriptorProto) -> bool {
    !matches!(field.r#type(), Type::Message | Type::String | Type::Bytes | Type::Group)
}

impl Methods {
    /// Reads the methods of all services in these encoded descriptor sets.
    pub fn from_descriptors(descriptors: &[&[u8]]) -> Result<Self, prost::DecodeError> {
        let mut methods = HashMap::new();
        for encoded in descriptors {
            let files = FileDescriptorSet::decode(*encoded)?.file;
            let inputs = messages(&files);
            for file in &files {
                for service in &file.service {
                    for method in &service.method {
                        let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                        let input = MessageKind::new(&name, method, &inputs);
                        let streams = method.server_streaming();
                        methods.insert(format!("/{name}"), Method { name: name.into(), streams, input });
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

/// Returns the messages at the top level of the files, by the name with which methods refer to them.
fn messages(files: &[prost_types::FileDescriptorProto]) -> HashMap<String, DescriptorProto> {
    let of_file = |file: &prost_types::FileDescriptorProto| {
        let package = file.package().to_owned();
        file.message_type.clone().into_iter().map(move |message| (format!(".{package}.{}", message.name()), message))
    };
    files.iter().flat_map(of_file).collect()
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

    #[test]
    fn limit_of_a_request_follows_from_its_lists() {
        let methods = Methods::from_descriptors(&[FILE_DESCRIPTOR_SET]).unwrap();
        let mut limits: Vec<_> = methods.iter().map(|(_, method)| (&*method.name, method.input.max_bytes())).collect();
        limits.sort_by_key(|(name, limit)| (limit.unwrap_or(usize::MAX), *name));
        let names = |limit| {
            let with_limit = limits.iter().filter(move |(_, found)| *found == limit);
            with_limit.map(|(name, _)| name.rsplit('/').next().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names(None), ["AddTasks", "ReportResults"]);
        assert_eq!(names(Some(MAX_LIST_BYTES)), ["CreateJob", "ListJobs", "BatchGetProgress", "NextJob"]);
        assert_eq!(names(Some(MAX_SINGLE_BYTES)).len(), methods.iter().count() - 6);
        let packed: Vec<_> = methods.iter().filter(|(_, method)| method.input.has_packed).collect();
        assert!(packed.iter().all(|(path, _)| path.ends_with("/ListJobs")), "{packed:?}");
    }

    /// `message_size` counts only the fields at the top level.
    #[test]
    fn nested_messages_of_requests_repeat_no_field() {
        let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file;
        let inputs = messages(&files);
        let methods = files.iter().flat_map(|file| &file.service).flat_map(|service| &service.method);
        let mut nested: Vec<_> = methods.flat_map(|method| &inputs[method.input_type()].field).collect();
        let mut seen = 0;
        while let Some(field) = nested.pop() {
            // The entries of maps are nested in the message and have only a key and a value.
            let Some(message) = inputs.get(field.type_name()) else { continue };
            assert!(message.field.iter().all(|field| field.label() != Label::Repeated), "{}", message.name());
            nested.extend(&message.field);
            seen += 1;
        }
        assert!(seen >= 3, "task results, their errors and durations");
    }
}
