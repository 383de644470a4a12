//! The interface: alone knows tonic and the generated types.
