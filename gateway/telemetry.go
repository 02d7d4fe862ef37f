package gateway

import (
	"fmt"
	"regexp"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// telemetryUnits choose the XTelemetryPolicy of a Gateway.
var telemetryUnits = unitKind{
	name: "telemetry", stage: stageRoutes, compute: chooseTelemetry,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.Gateway] { return o.Gateways }),
}

// telemetryChoice says which policy of a Gateway is in force. The policies' statuses read it, and not one another: a change of one
// of many for a Gateway is a change of that one alone.
type telemetryChoice struct {
	gateway, policy string // keys
}

func newTelemetryChoices(db *state.DB) *state.Table[*telemetryChoice] {
	return state.NewTable(db, "gateway-telemetry-choices", func(c *telemetryChoice) string { return c.gateway })
}

// chooseTelemetry chooses the oldest policy, whether it is valid or not: one that is being edited does not give way to another.
func chooseTelemetry(v *view, key string) ([]output, bool) {
	gw, ok := v.objs.Gateways.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	var oldest *gwxv1.XTelemetryPolicy
	for p := range v.objs.TelemetryPolicies.By(v.Snapshot, kube.ByParent, kube.ParentKey("Gateway", gw.Namespace, gw.Name)) {
		if oldest == nil || older(p, oldest) {
			oldest = p
		}
	}
	if oldest == nil {
		return nil, true
	}
	return []output{out(v.telemetry, key, &telemetryChoice{gateway: key, policy: kube.Key(oldest)})}, true
}

// tracing returns what the policy in force for a Gateway wants; nil if there is none, or none that is valid.
func (v *view) tracing(gateway string) *model.Tracing {
	choice, ok := v.telemetry.Get(v.Snapshot, gateway)
	if !ok {
		return nil
	}
	p, ok := v.objs.TelemetryPolicies.Get(v.Snapshot, choice.policy)
	if !ok {
		return nil // the choice is made anew first
	}
	r := v.readTelemetry(p)
	if !r.accepted.ok() {
		return nil
	}
	return &r.tracing
}

func telemetryRef(p *gwxv1.XTelemetryPolicy) model.ObjectRef {
	return model.ObjectRef{Group: gwxv1.GroupName, Kind: "XTelemetryPolicy", Namespace: p.Namespace, Name: p.Name}
}

// readTelemetry is what an XTelemetryPolicy comes to, for any Gateway.
type readTelemetry struct {
	tracing model.Tracing
	// accepted is about the policy as a whole, refs about its collector, and dropped about what is left out of it.
	accepted, refs, dropped problems
}

func (v *view) readTelemetry(p *gwxv1.XTelemetryPolicy) *readTelemetry {
	r := &readTelemetry{tracing: model.Tracing{Policy: model.ObjectVersion{ObjectRef: telemetryRef(p), Generation: p.Generation}}}
	if m := kube.UnknownFieldsOf(p).Message(); m != "" {
		r.invalid("%s", m)
	}
	r.readTargets(p)
	t := &p.Spec.Tracing
	switch t.Mode {
	case gwxv1.TracingModeEnabled:
		v.readCollector(r, p)
		r.tracing.Sampling = r.fraction("tracing.samplingRate", t.SamplingRate)
		r.readParent(&t.ParentBasedSampling)
		r.readNames(t)
		r.readAttributes(t.Attributes)
	case gwxv1.TracingModeDisabled:
		r.tracing.Off = true
		r.onlyEnabled(t)
	case gwxv1.TracingModeImplementationDefault, "":
		r.onlyEnabled(t)
	default:
		r.invalid("tracing.mode %q is not one of Enabled, Disabled and ImplementationDefault", short(string(t.Mode)))
	}
	return r
}

func (r *readTelemetry) invalid(format string, args ...any) {
	r.accepted.add(string(gwv1.PolicyReasonInvalid), fmt.Sprintf(format, args...))
}

func (r *readTelemetry) drop(format string, args ...any) {
	r.dropped.add(string(gwv1.RouteReasonUnsupportedValue), fmt.Sprintf(format, args...))
}

func (r *readTelemetry) readTargets(p *gwxv1.XTelemetryPolicy) {
	if len(kube.TelemetryGateways(p)) == 0 {
		r.invalid("targetRefs: none is a Gateway")
	}
	for i, t := range p.Spec.TargetRefs {
		switch {
		case i == kube.MaxPolicyTargets:
			r.drop("targetRefs: those past the limit of %d are left out", kube.MaxPolicyTargets)
			return
		case t.Kind != "Gateway" || t.Group != gwv1.GroupName:
			r.drop("targetRefs[%d]: kind %q of group %q is not supported as a target", i, short(string(t.Kind)), short(string(t.Group)))
		}
	}
}

// onlyEnabled refuses fields without effect.
func (r *readTelemetry) onlyEnabled(t *gwxv1.TracingConfig) {
	if t.Provider.BackendRef.Name != "" || len(t.Provider.Headers) > 0 || t.SamplingRate != nil || t.ParentBasedSampling != (gwxv1.ParentBasedSampling{}) ||
		t.ServiceName != "" || t.SpanName != "" || len(t.Attributes) > 0 {
		r.invalid("tracing: other fields than mode can only be set when mode is Enabled")
	}
}

// fraction returns a fraction as a percentage; nil for none.
func (r *readTelemetry) fraction(at string, f *gwv1.Fraction) *float64 {
	if f == nil {
		return nil
	}
	of := int32(100)
	if f.Denominator != nil {
		of = *f.Denominator
	}
	if of <= 0 || f.Numerator < 0 || f.Numerator > of {
		r.invalid("%s: %d/%d is not a fraction from 0 to 1", at, f.Numerator, of)
		return nil
	}
	percent := 100 * float64(f.Numerator) / float64(of)
	return &percent
}

// readParent refuses a rate below 100 %: Envoy follows all decisions of clients or none.
func (r *readTelemetry) readParent(s *gwxv1.ParentBasedSampling) {
	rate := r.fraction("tracing.parentBasedSampling.samplingRate", s.SamplingRate)
	switch s.Mode {
	case gwxv1.ParentBasedSamplingModeEnabled:
		r.tracing.FollowParent = true
		if rate != nil && *rate != 100 {
			r.invalid("tracing.parentBasedSampling.samplingRate: only 100 %% is supported; without samplingRate it is that")
		}
	case gwxv1.ParentBasedSamplingModeDisabled, gwxv1.ParentBasedSamplingModeImplementationDefault, "":
		if rate != nil {
			r.invalid("tracing.parentBasedSampling.samplingRate can only be set when its mode is Enabled")
		}
	default:
		r.invalid("tracing.parentBasedSampling.mode %q is not one of Enabled, Disabled and ImplementationDefault", short(string(s.Mode)))
	}
}

const (
	maxServiceName = 253
	maxSpanName    = 256
)

var (
	serviceNameFormat = regexp.MustCompile(`^[a-zA-Z0-9_.:/-]+$`)
	// spanNameFormat has no %, which would be a command to Envoy.
	spanNameFormat = regexp.MustCompile(`^[a-zA-Z0-9_.:/-]+( [a-zA-Z0-9_.:/-]+)*$`)
)

func (r *readTelemetry) readNames(t *gwxv1.TracingConfig) {
	if s := t.ServiceName; s != "" && (len(s) > maxServiceName || !serviceNameFormat.MatchString(s)) {
		r.invalid("tracing.serviceName %q is longer than %d bytes or has a character that does not belong there", short(s), maxServiceName)
	}
	if s := t.SpanName; s != "" && (len(s) > maxSpanName || !spanNameFormat.MatchString(s)) {
		r.invalid("tracing.spanName %q is longer than %d bytes or has a character that does not belong there", short(s), maxSpanName)
	}
	r.tracing.ServiceName, r.tracing.SpanName = t.ServiceName, t.SpanName
}

// readCollector finds where the spans go. Where that cannot be found nothing is traced: another collector is not for them.
func (v *view) readCollector(r *readTelemetry, p *gwxv1.XTelemetryPolicy) {
	const at = "tracing.provider"
	provider := &p.Spec.Tracing.Provider
	if provider.BackendRef.Name == "" {
		r.invalid("%s.backendRef is missing", at)
		return
	}
	res := &resolver{v: v, route: telemetryRef(p), grants: true}
	b := res.backend(at+".backendRef", provider.BackendRef)
	r.refs = res.refs
	if !b.Invalid && v.speaksHTTP1(b) {
		r.refs.add(string(gwv1.RouteReasonUnsupportedProtocol), fmt.Sprintf(
			"%s.backendRef: port %d of Service %s/%s has appProtocol http, and spans go by OTLP over gRPC", at, b.Port, b.Namespace, b.Name))
	}
	headers := r.readHeaders(at, provider.Headers)
	if !r.refs.ok() {
		r.tracing.Off = true
		return
	}
	r.tracing.Collector = &model.Collector{Namespace: b.Namespace, Service: b.Name, Port: b.Port, Headers: headers}
}

// speaksHTTP1 reports whether a Service says that a port of it speaks HTTP without gRPC, as collectors do at port 4318.
func (v *view) speaksHTTP1(b model.Backend) bool {
	svc, ok := v.objs.Services.Get(v.Snapshot, model.Key(b.Namespace, b.Name))
	if !ok {
		return false
	}
	for _, p := range svc.Spec.Ports {
		if proto, ok := protocol(p.Protocol); ok && proto == model.TCP && p.Port == int32(b.Port) {
			return p.AppProtocol != nil && strings.EqualFold(*p.AppProtocol, "http")
		}
	}
	return false
}

// readHeaders takes headers as filters of routes do. Values stay out of all messages: they let their bearer in.
func (r *readTelemetry) readHeaders(at string, in []gwv1.HTTPHeader) []model.SecretHeader {
	if len(in) > maxHeaders {
		r.invalid("%s: more than %d headers", at, maxHeaders)
		return nil
	}
	var headers []model.SecretHeader
	seen := map[string]bool{}
	for i, h := range in {
		name, here := strings.ToLower(string(h.Name)), fmt.Sprintf("%s.headers[%d]", at, i)
		f := changeableHeader(here, name)
		switch {
		case f != nil:
			r.invalid("%s", f.message)
		case name == "content-type" || strings.HasPrefix(name, "grpc-"):
			r.invalid("%s: header %s belongs to gRPC and cannot be set", here, name)
		case seen[name]:
			r.invalid("%s: header %s is there twice", here, name)
		case h.Value == "" || validHeaderValue(h.Value) != "" || strings.TrimSpace(h.Value) != h.Value:
			r.invalid("%s: the value of header %s is empty, longer than %d bytes, begins or ends with a space or holds a control character", here, name, maxHeaderValue)
		}
		seen[name] = true
		headers = append(headers, model.SecretHeader{Name: name, Value: h.Value})
	}
	return headers
}
