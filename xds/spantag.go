package xds

import (
	"encoding/json"
	"fmt"
	"strings"

	tag "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// byPolicy is how the requests of a Gateway are traced where an XTelemetryPolicy says so.
func byPolicy(g *model.Gateway, of traced) traced {
	t := g.Tracing
	switch {
	case t == nil:
	case t.Off:
		of.sampling = new(float64) // clients' word on sampling is still not taken
	case t.Collector != nil:
		of.collector = exportName(g)
		if t.Sampling != nil {
			of.sampling = t.Sampling
		}
		if t.ServiceName != "" {
			of.service = t.ServiceName
		}
		of.outermost, of.operation, of.tags = !t.FollowParent, t.SpanName, spanTags(t.Attributes)
	}
	return of
}

// maxTag bounds the length of a value that a client or a backend chooses, in bytes.
const maxTag = 256

// spanFormats give the attributes of model.SpanKeys. Those without a % are constant.
var spanFormats = map[string]string{
	"client.address":               "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
	"client.port":                  "%DOWNSTREAM_REMOTE_PORT%",
	"http.request.method":          "%REQ(:METHOD):256%",
	"http.request.method_original": "%REQ(:METHOD):256%",
	"http.response.status_code":    "%RESPONSE_CODE%",
	"network.peer.address":         "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
	"network.peer.port":            "%DOWNSTREAM_DIRECT_REMOTE_PORT%",
	"network.protocol.name":        "http",
	"network.transport":            "tcp",
	"server.port":                  "%DOWNSTREAM_LOCAL_PORT%",
	"url.full":                     "%REQ(:SCHEME)%://%REQ(:AUTHORITY):256%%PATH(WQ):256%",
	"url.path":                     "%PATH(NQ):256%",
	"url.query":                    "%QUERY_PARAMS:256%",
	"url.scheme":                   "%REQ(:SCHEME)%",
	"user_agent.original":          "%REQ(USER-AGENT):256%",
}

// spanTags makes attributes of spans. All values are text.
func spanTags(in []model.SpanAttribute) []*tag.CustomTag {
	var out []*tag.CustomTag
	for _, a := range in {
		t := &tag.CustomTag{Tag: a.Name}
		if format := spanFormat(a); format != "" {
			t.Type = &tag.CustomTag_Value{Value: format}
		} else {
			t.Type = &tag.CustomTag_Literal_{Literal: &tag.CustomTag_Literal{Value: a.Literal}}
		}
		out = append(out, t)
	}
	return out
}

// spanFormat returns the format string of an attribute; "" for a literal.
func spanFormat(a model.SpanAttribute) string {
	if name, ok := strings.CutPrefix(a.Key, model.SpanRequestHeader); ok {
		return fmt.Sprintf("%%REQ(%s):%d%%", name, maxTag)
	}
	if name, ok := strings.CutPrefix(a.Key, model.SpanResponseHeader); ok {
		return fmt.Sprintf("%%RESP(%s):%d%%", name, maxTag)
	}
	if a.Header != "" {
		return eitherHeader(a.Header)
	}
	return spanFormats[a.Key]
}

// eitherHeader is a header of the request, or if it has none of the response.
func eitherHeader(name string) string {
	type operator struct {
		Command string `json:"command"`
		Param   string `json:"param"`
	}
	operators, _ := json.Marshal(map[string][]operator{"operators": {{"REQ", name}, {"RESP", name}}}) // text always encodes
	return fmt.Sprintf("%%COALESCE(%s):%d%%", operators, maxTag)
}
