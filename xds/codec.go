package xds

import (
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that is asked for below
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// textCodec is gRPC's codec for protocol buffers, but reads messages with strings that are not UTF-8 too. Envoy writes what clients
// choose into its access logs, and not all of it is UTF-8: a value of a header may have any byte from 0x80 (RFC 9110 5.5), as may a
// name in a certificate. Without this, one such string would end the stream of reports and take the other entries of its message
// with it.
type textCodec struct{ encoding.CodecV2 }

func newTextCodec() textCodec { return textCodec{encoding.GetCodecV2("proto")} }

// Unmarshal decodes data into v, a proto.Message. Each byte that is not part of UTF-8 in a string becomes a question mark.
func (c textCodec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	m, ok := v.(proto.Message)
	if err == nil || !ok {
		return err
	}
	text := data.Materialize()
	if !repairStrings(text, m.ProtoReflect().Descriptor(), maxMessageDepth) {
		return err
	}
	return proto.Unmarshal(text, m)
}

// maxMessageDepth bounds how deep in a message strings are repaired. Entries of access logs are far less deep.
const maxMessageDepth = 32

// repairStrings overwrites what is not UTF-8 in the strings of an encoded message. Lengths stay as they are. It reports whether it
// changed something.
func repairStrings(b []byte, d protoreflect.MessageDescriptor, depth int) (changed bool) {
	for len(b) > 0 && depth > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			break
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			break
		}
		if field := d.Fields().ByNumber(number); field != nil && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(b)
			switch field.Kind() {
			case protoreflect.StringKind:
				changed = repairString(value) || changed
			case protoreflect.MessageKind: // an entry of a map is one too
				changed = repairStrings(value, field.Message(), depth-1) || changed
			}
		}
		b = b[n:]
	}
	return changed
}

func repairString(s []byte) (changed bool) {
	for len(s) > 0 {
		r, n := utf8.DecodeRune(s)
		if r == utf8.RuneError && n == 1 {
			s[0], changed = '?', true
		}
		s = s[n:]
	}
	return changed
}
