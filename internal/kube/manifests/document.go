package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"hash/maphash"
	"io"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weft-mesh/weft/internal/model"
)

// chunk is the text of one document in a file.
type chunk struct {
	line int // of its first byte, from 1
	text []byte
	json bool
}

// document is what became of a document, or of an item of a List. Lines count from the first line of its chunk, which
// is 0, so that a document that only moved in its file need not be read again.
type document struct {
	line int
	ref  model.ObjectRef // as far as it is known
	gk   schema.GroupKind
	key  objectKey      // empty until the kind and the name are known
	obj  runtime.Object // nil when the document is bad
	spec uint64         // hash of all but metadata and status
	// faults say why the document is bad.
	faults []fault
	// installed is true once obj is in a table and must not be changed any more.
	installed bool
	// standIn is what is in force for a bad document as long as there is no good version; nil for most.
	standIn *document
	// note says, in a document that stands in for another, what that means.
	note string
}

// known reports whether the document says which object it is.
func (d *document) known() bool { return d.ref.Kind != "" && d.ref.Name != "" }

// fault is one thing that is wrong with a document.
type fault struct {
	line   int
	reason string
	// syntax faults leave open what the text was to be.
	syntax bool
}

// maxFaults is how many faults of one document are reported.
const maxFaults = 8

// maxReason is how long a reason can get: it quotes text of the manifest.
const maxReason = 600

func newFault(line int, reason string) fault {
	if len(reason) > maxReason {
		cut := maxReason
		for !utf8.RuneStart(reason[cut]) {
			cut--
		}
		reason = reason[:cut] + " …"
	}
	return fault{line: line, reason: strings.ToValidUTF8(reason, "�")}
}

// manifestName reports whether a file of this name is read.
func manifestName(name string) bool {
	if strings.HasPrefix(filepath.Base(name), ".") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// splitFile cuts a file into documents. No cut depends on the text between two cuts, so that a broken document does
// not take its neighbours with it.
func splitFile(name string, data []byte) []chunk {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if filepath.Ext(name) == ".json" {
		return splitJSON(data)
	}
	return splitYAML(data)
}

// splitYAML cuts at document markers: "---" and "..." at the start of a line (YAML 1.2, 9.1.2). They cannot be part
// of a scalar there. A chunk keeps its "---", after which content may follow.
func splitYAML(data []byte) []chunk {
	var out []chunk
	start, startLine, line := 0, 1, 1
	flush := func(end int) {
		if !blank(data[start:end]) {
			out = append(out, chunk{line: startLine, text: data[start:end]})
		}
		start, startLine = end, line
	}
	for i := 0; i < len(data); line++ {
		end := bytes.IndexByte(data[i:], '\n')
		if end < 0 {
			end = len(data)
		} else {
			end += i + 1
		}
		switch l := data[i:end]; {
		case marker(l, "---"):
			flush(i)
		case marker(l, "..."):
			flush(i)
			start, startLine = end, line+1
		}
		i = end
	}
	flush(len(data))
	return out
}

func marker(line []byte, m string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(m))
	return ok && (len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0)
}

// blank is true for a chunk without content: comments, directives, markers.
func blank(text []byte) bool {
	for l := range bytes.Lines(text) {
		if marker(l, "---") {
			l = l[len("---"):]
		}
		l = bytes.TrimSpace(l)
		if len(l) > 0 && l[0] != '#' && l[0] != '%' {
			return false
		}
	}
	return true
}

// splitJSON cuts a stream of JSON values. What follows a syntax error is one chunk, for nothing says where the next
// value begins.
func splitJSON(data []byte) []chunk {
	var out []chunk
	dec := json.NewDecoder(bytes.NewReader(data))
	at, line := 0, 1
	for {
		for at < len(data) && strings.IndexByte(" \t\r\n", data[at]) >= 0 {
			if data[at] == '\n' {
				line++
			}
			at++
		}
		if at == len(data) {
			return out
		}
		var raw json.RawMessage
		err := dec.Decode(&raw)
		end := int(dec.InputOffset())
		if err != nil || end <= at {
			end = len(data)
		}
		out = append(out, chunk{line: line, text: data[at:end], json: true})
		line += bytes.Count(data[at:end], []byte{'\n'})
		at = end
		if err != nil && !errors.Is(err, io.EOF) {
			return out
		}
	}
}

var hashSeed = maphash.MakeSeed()

// hash tells chunks apart within one run of the process.
func (c chunk) hash() uint64 {
	var h maphash.Hash
	h.SetSeed(hashSeed)
	if c.json {
		_ = h.WriteByte(1)
	}
	_, _ = h.Write(c.text)
	return h.Sum64()
}
