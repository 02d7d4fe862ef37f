package xds

import (
	"bytes"
	"testing"

	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	als "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// TestTextCodec: strings that are not UTF-8 are repaired wherever they are, what is beside them is as it was, and a message that is
// damaged in another way is an error.
func TestTextCodec(t *testing.T) {
	message := func(path, tag string) *als.StreamAccessLogsMessage {
		return &als.StreamAccessLogsMessage{LogEntries: &als.StreamAccessLogsMessage_HttpLogs{HttpLogs: &als.StreamAccessLogsMessage_HTTPAccessLogEntries{
			LogEntry: []*data.HTTPAccessLogEntry{
				{CommonProperties: &data.AccessLogCommon{CustomTags: map[string]string{"a": "ä", "b": tag}}, Request: &data.HTTPRequestProperties{Path: path}},
				{Request: &data.HTTPRequestProperties{Path: "/next"}},
			},
		}}}
	}
	// Go encodes no string that is not UTF-8: placeholders of the same length take their place.
	encoded := func(path, tag string) []byte {
		b, err := proto.Marshal(message("#PATH#", "#TAG#"))
		if err != nil {
			t.Fatal(err)
		}
		return replaced(t, replaced(t, b, "#PATH#", path), "#TAG#", tag)
	}
	for name, test := range map[string]struct {
		encoded   []byte
		path, tag string
		fails     bool
	}{
		"as it should be":     {encoded: encoded("/ä/bb", "text!"), path: "/ä/bb", tag: "text!"},
		"a string":            {encoded: encoded("/\xff\x80\xc3ä", "text!"), path: "/???ä", tag: "text!"},
		"a value of a map":    {encoded: encoded("/path!", "\xff\xfeä!"), path: "/path!", tag: "??ä!"},
		"both":                {encoded: encoded("/path\xff", "tag!\xe2"), path: "/path?", tag: "tag!?"},
		"unknown fields":      {encoded: protowire.AppendString(protowire.AppendTag(encoded("/path\xff", "text!"), 999, protowire.BytesType), "\xff"), path: "/path?", tag: "text!"},
		"cut":                 {encoded: encoded("/path\xff", "text!")[:30], fails: true},
		"cut and all is text": {encoded: encoded("/path!", "text!")[:30], fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			var got als.StreamAccessLogsMessage
			err := newTextCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(test.encoded)}, &got)
			if (err != nil) != test.fails {
				t.Fatalf("error %v, want one: %t", err, test.fails)
			}
			if want := message(test.path, test.tag); !test.fails {
				got.ProtoReflect().SetUnknown(nil)
				if !proto.Equal(&got, want) {
					t.Errorf("got %v, want %v", &got, want)
				}
			}
		})
	}
}

func replaced(t *testing.T, in []byte, old, with string) []byte {
	t.Helper()
	at := bytes.Index(in, []byte(old))
	if at < 0 || len(old) != len(with) {
		t.Fatalf("%q is not in %q, or of another length than %q", old, in, with)
	}
	copy(in[at:], with)
	return in
}
