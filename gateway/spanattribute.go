package gateway

import (
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/weft-mesh/weft/internal/model"
)

const (
	// maxAttributes bounds what each span costs. The API has no limit.
	maxAttributes    = 64
	maxAttributeName = 256
	maxLiteral       = 1024
)

var attributeNameFormat = regexp.MustCompile(`^[a-zA-Z0-9_.:/-]+$`)

// readAttributes leaves out attributes that are not known, as GEP-4768 wants, and says so.
func (r *readTelemetry) readAttributes(in []gwxv1.Attribute) {
	const at = "tracing.attributes"
	if len(in) > maxAttributes {
		r.invalid("%s: %d, at most %d are supported", at, len(in), maxAttributes)
		return
	}
	seen := map[string]bool{}
	for i := range in {
		name := string(in[i].Name)
		switch {
		case len(name) > maxAttributeName || !attributeNameFormat.MatchString(name):
			r.invalid("%s[%d]: name %q is empty, longer than %d bytes or has a character that does not belong there", at, i, short(name), maxAttributeName)
			continue
		case seen[name]:
			r.invalid("%s: %q is there twice", at, short(name))
			continue
		}
		seen[name] = true
		a, reason := spanAttribute(&in[i])
		if reason != "" {
			r.drop("%s: %q is left out: %s", at, short(name), reason)
			continue
		}
		r.tracing.Attributes = append(r.tracing.Attributes, a)
	}
}

// spanAttribute reads an attribute; reason says why it cannot be had.
func spanAttribute(in *gwxv1.Attribute) (out model.SpanAttribute, reason string) {
	out.Name = string(in.Name)
	switch in.SourceType {
	case gwxv1.AttributeSourceLiteral:
		out.Literal = in.LiteralValue
		if out.Literal == "" || len(out.Literal) > maxLiteral || !utf8.ValidString(out.Literal) {
			return out, "literalValue is empty, too long or not UTF-8"
		}
	case gwxv1.AttributeSourceHeader:
		out.Header = strings.ToLower(string(in.HeaderName))
		return out, validHeaderName(out.Header)
	case gwxv1.AttributeSourceAttribute:
		out.Key = in.AttributeKey
		if !knownSpanKey(out.Key) {
			return out, "attributeKey " + short(out.Key) + " is not supported"
		}
	default:
		return out, "sourceType " + short(string(in.SourceType)) + " is not supported"
	}
	return out, ""
}

func knownSpanKey(key string) bool {
	for _, prefix := range []string{model.SpanRequestHeader, model.SpanResponseHeader} {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			return validToken(name)
		}
	}
	return slices.Contains(model.SpanKeys, key)
}
