package manifests

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	yamlv3 "go.yaml.in/yaml/v3"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/weft-mesh/weft/internal/model"
)

// maxExpanded is how large a document can get by its aliases, in bytes of scalars plus one a node.
const maxExpanded = 16 << 20

// value reads a chunk the way kubectl does (YAML 1.1 as sigs.k8s.io/yaml has it, or JSON) and gives it as JSON text
// and as maps, lists and scalars. A nil value without faults is a document that says nothing (null).
func (c chunk) value() (text []byte, v any, faults []fault) {
	if line, ok := invalidUTF8(c.text); ok {
		return nil, nil, []fault{syntax(line, "is not UTF-8 text")}
	}
	text = c.text
	body := bytes.TrimLeft(c.text, " \t\r\n")
	isJSON := c.json || (len(body) > 0 && body[0] == '{' && kjsonValid(body))
	if !isJSON {
		if err := checkAliases(c.text); err != nil {
			return nil, nil, []fault{syntax(0, err.Error())}
		}
		var err error
		if text, err = yaml.YAMLToJSONStrict(c.text); err != nil {
			return nil, nil, templated(c.text, yamlFaults(err))
		}
	}
	strict, err := kjson.UnmarshalStrict(text, &v, kjson.DisallowDuplicateFields)
	if err != nil {
		return nil, nil, []fault{syntax(jsonErrorLine(c.text, err), err.Error())}
	}
	for _, e := range strict {
		faults = append(faults, syntax(0, e.Error()))
	}
	return text, v, faults
}

// templated adds to what is wrong with YAML that it looks like a template, of which that is to be expected.
func templated(text []byte, faults []fault) []fault {
	at := bytes.Index(text, []byte("{{"))
	if at < 0 || !bytes.Contains(text[at:], []byte("}}")) {
		return faults
	}
	for i := range faults {
		faults[i] = syntax(faults[i].line, faults[i].reason+"; this looks like a template: render it first, for example by helm template")
	}
	return faults
}

func syntax(line int, reason string) fault {
	f := newFault(line, reason)
	f.syntax = true
	return f
}

func kjsonValid(text []byte) bool {
	var v any
	return kjson.UnmarshalCaseSensitivePreserveInts(text, &v) == nil
}

func invalidUTF8(text []byte) (line int, bad bool) {
	if utf8.Valid(text) {
		return 0, false
	}
	for l := range bytes.Lines(text) {
		if !utf8.Valid(l) {
			return line, true
		}
		line++
	}
	return 0, true
}

var yamlErrorLine = regexp.MustCompile(`^(?:error converting YAML to JSON: )?(?:yaml: )?(?:line (\d+): )?(.*)$`)

// yamlFaults takes go-yaml's messages apart: one or several, each with a line counted from 1.
func yamlFaults(err error) []fault {
	var out []fault
	for text := range strings.Lines(err.Error()) {
		text = strings.TrimSpace(text)
		m := yamlErrorLine.FindStringSubmatch(text)
		if m == nil || strings.HasSuffix(text, "unmarshal errors:") || m[2] == "" {
			continue
		}
		line, _ := strconv.Atoi(m[1])
		reason := m[2]
		if strings.Contains(reason, "found character that cannot start any token") {
			reason += " (a tab? YAML is indented by spaces)"
		}
		out = append(out, syntax(max(line-1, 0), reason))
		if len(out) == maxFaults {
			break
		}
	}
	if len(out) == 0 {
		out = append(out, syntax(0, err.Error()))
	}
	return out
}

// jsonErrorLine finds the line of a syntax error by its offset.
func jsonErrorLine(text []byte, err error) int {
	ok, offset := kjson.SyntaxErrorOffset(err)
	if !ok || offset < 0 || offset > int64(len(text)) {
		return 0
	}
	return bytes.Count(text[:offset], []byte{'\n'})
}

// checkAliases refuses documents whose aliases (*x) make them far larger than their text. Documents without aliases,
// which are nearly all, are not parsed for it.
func checkAliases(text []byte) error {
	if bytes.IndexByte(text, '*') < 0 || bytes.IndexByte(text, '&') < 0 {
		return nil
	}
	var root yamlv3.Node
	if yamlv3.Unmarshal(text, &root) != nil {
		return nil //nolint:nilerr // the reader that comes next says what is wrong with the text
	}
	sizes := map[*yamlv3.Node]int{}
	if expandedSize(&root, sizes) > maxExpanded {
		return fmt.Errorf("its aliases (*name) make it larger than %d MiB", maxExpanded>>20)
	}
	return nil
}

// expandedSize is that of a node with its aliases followed, at most a little over maxExpanded. A node that holds
// itself counts as too large.
func expandedSize(n *yamlv3.Node, sizes map[*yamlv3.Node]int) int {
	if s, ok := sizes[n]; ok {
		return s
	}
	sizes[n] = maxExpanded + 1 // until it is known
	size := 1 + len(n.Value)
	if n.Kind == yamlv3.AliasNode {
		size = expandedSize(n.Alias, sizes)
	}
	for _, c := range n.Content {
		size = min(size+expandedSize(c, sizes), maxExpanded+1)
	}
	sizes[n] = size
	return size
}

// lines finds the lines of fields in a chunk. It parses the text again, and only when something is wrong with it.
type lines struct {
	text []byte
	root *yamlv3.Node
}

// of returns the line (from 0) of a field path such as spec.rules[0].matches, or of the nearest field above it that
// the text has.
func (l *lines) of(path string) int {
	if l.root == nil {
		l.root = &yamlv3.Node{}
		_ = yamlv3.Unmarshal(l.text, l.root)
	}
	n := l.root
	if n.Kind == yamlv3.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	line := n.Line
	for _, token := range pathTokens(path) {
		key, next := child(n, token)
		if next == nil {
			break
		}
		line, n = key.Line, next
	}
	return max(line-1, 0)
}

// child finds a field or an element; key is the node to point at.
func child(n *yamlv3.Node, token string) (key, value *yamlv3.Node) {
	if n.Kind == yamlv3.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yamlv3.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == token {
				return n.Content[i], n.Content[i+1]
			}
		}
	case yamlv3.SequenceNode:
		if i, err := strconv.Atoi(token); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i]
		}
	}
	return nil, nil
}

// pathTokens takes a path apart: a.b[0][c/d.e] is a, b, 0, c/d.e.
func pathTokens(path string) []string {
	var out []string
	for path != "" {
		if rest, ok := strings.CutPrefix(path, "["); ok {
			token, after, _ := strings.Cut(rest, "]")
			out, path = append(out, token), strings.TrimPrefix(after, ".")
			continue
		}
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			return append(out, path)
		}
		out = append(out, path[:end])
		path = strings.TrimPrefix(path[end:], ".")
	}
	return out
}

var (
	flowName      = regexp.MustCompile(`[{,]\s*name:\s*["']?([^,}\s"']+)`)
	flowNamespace = regexp.MustCompile(`[{,]\s*namespace:\s*["']?([^,}\s"']+)`)
)

// guess reads from a YAML text that cannot be parsed which object it was to be, to name it in a report.
func guess(text []byte) (r model.ObjectRef) {
	meta := ""
	for raw := range bytes.Lines(text) {
		line := strings.TrimRight(string(raw), " \t\r\n")
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.Trim(strings.TrimSpace(value), `"'`)
		indent := len(line) - len(strings.TrimLeft(line, " "))
		switch {
		case !ok || strings.HasPrefix(key, "#"):
		case indent == 0:
			meta = ""
			switch key {
			case "kind":
				r.Kind = value
			case "apiVersion":
				r.Group, _, ok = strings.Cut(value, "/")
				if !ok {
					r.Group = ""
				}
			case "metadata":
				meta = "?"
				if m := flowName.FindStringSubmatch(value); m != nil {
					r.Name = m[1]
				}
				if m := flowNamespace.FindStringSubmatch(value); m != nil {
					r.Namespace = m[1]
				}
			}
		case meta != "":
			if meta == "?" {
				meta = strings.Repeat(" ", indent)
			}
			if indent != len(meta) {
				continue
			}
			switch key {
			case "name":
				r.Name = value
			case "namespace":
				r.Namespace = value
			}
		}
	}
	if r.Name == "" || r.Kind == "" || len(r.Name) > 253 || len(r.Kind) > 63 || len(r.Namespace) > 63 {
		return model.ObjectRef{}
	}
	return r
}
