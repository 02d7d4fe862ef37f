package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/weft-mesh/weft/internal/model"
)

// telemetryWorld has a Gateway and a collector.
func telemetryWorld(t *testing.T) *world {
	w := newWorld(testConfig)
	w.put(t,
		&corev1.Service{ObjectMeta: created("ns", "otel", 1), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 4317}}}},
		&gwv1.GatewayClass{ObjectMeta: created("", "weft", 9), Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}},
		&gwv1.Gateway{ObjectMeta: created("ns", "gw", 9), Spec: gwv1.GatewaySpec{GatewayClassName: "weft", Listeners: []gwv1.Listener{
			{Name: "http", Protocol: gwv1.HTTPProtocolType, Port: 80},
		}}})
	return w
}

// enabled is a policy that sends spans to the collector.
func enabled(name string, second int, change func(*gwxv1.TracingConfig)) *gwxv1.XTelemetryPolicy {
	p := &gwxv1.XTelemetryPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(int64(second), 0))}}
	p.Spec.TargetRefs = []gwv1.LocalObjectReference{{Group: gwv1.GroupName, Kind: "Gateway", Name: "gw"}}
	p.Spec.Tracing = gwxv1.TracingConfig{Mode: gwxv1.TracingModeEnabled, Provider: gwxv1.TracingProvider{
		BackendRef: gwv1.BackendObjectReference{Name: "otel", Port: new(gwv1.PortNumber(4317))},
	}}
	if change != nil {
		change(&p.Spec.Tracing)
	}
	return p
}

// inForce returns what is in force of the Gateway.
func (w *world) inForce(t *testing.T) *model.Tracing {
	t.Helper()
	w.Sync()
	g, ok := w.st.Gateways.Get(w.st.Snapshot(), "ns/gw")
	if !ok {
		t.Fatal("the Gateway is not served")
	}
	return g.Tracing
}

// telemetryCondition returns the reason of a condition of a policy, with a "!" before if it fails.
func (w *world) telemetryCondition(policy, kind string) string {
	s, ok := w.st.Statuses.Get(w.st.Snapshot(), telemetryRef(enabled(policy, 0, nil)).String())
	if !ok || len(s.Parents) != 1 {
		return "no status"
	}
	for _, c := range s.Parents[0].Conditions {
		if c.Type == kind && c.Fails() {
			return "!" + c.Reason + " " + c.Message
		} else if c.Type == kind {
			return c.Reason
		}
	}
	return ""
}

// TestGatewayFollowsTelemetry: a policy that comes, changes or goes, and a collector that comes, are followed.
func TestGatewayFollowsTelemetry(t *testing.T) {
	w := telemetryWorld(t)
	if got := w.inForce(t); got != nil {
		t.Errorf("without a policy: %v", got)
	}
	remove := func(name string) {
		txn := w.objs.Write()
		w.objs.TelemetryPolicies.Delete(txn, "ns/"+name)
		txn.Commit()
	}
	expect := func(step, policy string) {
		t.Helper()
		if got := w.inForce(t); got == nil || got.Policy.Name != policy {
			t.Errorf("%s: %+v is in force, want that of %s", step, got, policy)
		}
		if got := w.telemetryCondition(policy, model.ConditionAccepted); got != "Accepted" {
			t.Errorf("%s: %s is %s", step, policy, got)
		}
	}
	w.put(t, enabled("second", 2, nil))
	expect("a policy", "second")
	w.put(t, enabled("first", 1, nil))
	expect("an older one", "first")
	if got := w.telemetryCondition("second", model.ConditionAccepted); !strings.HasPrefix(got, "!Conflicted") {
		t.Errorf("the younger is %s", got)
	}
	w.put(t, enabled("first", 1, func(c *gwxv1.TracingConfig) {
		c.SamplingRate = &gwv1.Fraction{Numerator: 1, Denominator: new(int32(4))}
	}))
	expect("a change", "first")
	if got := w.inForce(t); got.Sampling == nil || *got.Sampling != 25 {
		t.Errorf("sampling is %v", got.Sampling)
	}
	// One that is not valid does not give way, and nothing of it is in force.
	w.put(t, enabled("first", 1, func(c *gwxv1.TracingConfig) { c.SamplingRate = &gwv1.Fraction{Numerator: 101} }))
	if got := w.inForce(t); got != nil {
		t.Errorf("an invalid policy: %+v", got)
	}
	remove("first")
	expect("the older goes", "second")

	txn := w.objs.Write()
	w.objs.Services.Delete(txn, "ns/otel")
	txn.Commit()
	expect("the collector goes", "second")
	if got := w.inForce(t); !got.Off || got.Collector != nil {
		t.Errorf("without its collector: %+v", got)
	}
	if got := w.telemetryCondition("second", model.ConditionResolvedRefs); !strings.HasPrefix(got, "!BackendNotFound") {
		t.Errorf("without its collector it is %s", got)
	}
	w.put(t, &corev1.Service{ObjectMeta: created("ns", "otel", 1), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 4317}}}})
	if got := w.inForce(t); got.Off || got.Collector == nil {
		t.Errorf("with its collector again: %+v", got)
	}
	remove("second")
	if got := w.inForce(t); got != nil {
		t.Errorf("without a policy again: %v", got)
	}
}

// TestTelemetryRefusals: what cannot be done is refused, or left out, by a condition; an API server without the rules of the schema
// lets all of it through.
func TestTelemetryRefusals(t *testing.T) {
	attribute := func(a gwxv1.Attribute) func(*gwxv1.TracingConfig) {
		return func(c *gwxv1.TracingConfig) { c.Attributes = []gwxv1.Attribute{a} }
	}
	header := func(name gwv1.HTTPHeaderName, value string) func(*gwxv1.TracingConfig) {
		return func(c *gwxv1.TracingConfig) { c.Provider.Headers = []gwv1.HTTPHeader{{Name: name, Value: value}} }
	}
	const secret = "hunter2"
	many := make([]gwxv1.Attribute, maxAttributes+1)
	for i := range many {
		many[i] = gwxv1.Attribute{Name: gwxv1.AttributeName(fmt.Sprint("a", i)), SourceType: gwxv1.AttributeSourceLiteral, LiteralValue: "v"}
	}
	for name, c := range map[string]struct {
		change  func(*gwxv1.TracingConfig)
		partial bool // the rest is in force
		says    string
	}{
		"mode":                   {func(c *gwxv1.TracingConfig) { c.Mode = "Maybe" }, false, `"Maybe"`},
		"fields that do nothing": {func(c *gwxv1.TracingConfig) { c.Mode = gwxv1.TracingModeDisabled }, false, "only be set when mode is Enabled"},
		"no collector":           {func(c *gwxv1.TracingConfig) { c.Provider = gwxv1.TracingProvider{} }, false, "backendRef is missing"},
		"rate above one":         {func(c *gwxv1.TracingConfig) { c.SamplingRate = &gwv1.Fraction{Numerator: 101} }, false, "101/100"},
		"negative rate":          {func(c *gwxv1.TracingConfig) { c.SamplingRate = &gwv1.Fraction{Numerator: -1} }, false, "-1/100"},
		"rate of nothing":        {func(c *gwxv1.TracingConfig) { c.SamplingRate = &gwv1.Fraction{Denominator: new(int32(0))} }, false, "0/0"},
		"rate of parents": {func(c *gwxv1.TracingConfig) {
			c.ParentBasedSampling = gwxv1.ParentBasedSampling{Mode: "Enabled", SamplingRate: &gwv1.Fraction{Numerator: 50}}
		}, false, "only 100 %"},
		"rate of parents, no mode": {func(c *gwxv1.TracingConfig) { c.ParentBasedSampling.SamplingRate = &gwv1.Fraction{Numerator: 100} }, false, "its mode is Enabled"},
		"mode of parents":          {func(c *gwxv1.TracingConfig) { c.ParentBasedSampling.Mode = "Maybe" }, false, `"Maybe"`},
		"service name":             {func(c *gwxv1.TracingConfig) { c.ServiceName = "a b" }, false, "serviceName"},
		"span name with a command": {func(c *gwxv1.TracingConfig) { c.SpanName = "%REQ(cookie)%" }, false, "spanName"},
		"too many attributes":      {func(c *gwxv1.TracingConfig) { c.Attributes = many }, false, "at most 64"},
		"attribute twice":          {func(c *gwxv1.TracingConfig) { c.Attributes = append(many[:1:1], many[0]) }, false, "twice"},
		"name of an attribute":     {attribute(gwxv1.Attribute{Name: "a b", SourceType: gwxv1.AttributeSourceLiteral, LiteralValue: "v"}), false, `"a b"`},
		"empty literal":            {attribute(gwxv1.Attribute{Name: "a", SourceType: gwxv1.AttributeSourceLiteral}), true, "literalValue"},
		"header that is none":      {attribute(gwxv1.Attribute{Name: "a", SourceType: gwxv1.AttributeSourceHeader, HeaderName: "x)%"}), true, "not a header name"},
		"header of the framing":    {attribute(gwxv1.Attribute{Name: "a", SourceType: gwxv1.AttributeSourceHeader, HeaderName: ":path"}), true, "not a header name"},
		"key":                      {attribute(gwxv1.Attribute{Name: "a", SourceType: gwxv1.AttributeSourceAttribute, AttributeKey: "gen_ai.tool.name"}), true, "gen_ai.tool.name is not supported"},
		"key of a header":          {attribute(gwxv1.Attribute{Name: "a", SourceType: gwxv1.AttributeSourceAttribute, AttributeKey: "http.request.header.a)%"}), true, "not supported"},
		"source":                   {attribute(gwxv1.Attribute{Name: "a", SourceType: "Cookie"}), true, "Cookie is not supported"},
		"header of the connection": {header("Connection", secret), false, "belongs to the connection"},
		"Host":                     {header("Host", secret), false, "header host"},
		"header of gRPC":           {header("grpc-timeout", secret), false, "belongs to gRPC"},
		"value with a new line":    {header("authorization", secret+"\r\nx: y"), false, "the value of header authorization"},
		"value with a space":       {header("authorization", " "+secret), false, "the value of header authorization"},
		"header twice": {func(c *gwxv1.TracingConfig) {
			c.Provider.Headers = []gwv1.HTTPHeader{{Name: "X-A", Value: secret}, {Name: "x-a", Value: secret}}
		}, false, "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			w := telemetryWorld(t)
			w.put(t, enabled("p", 1, c.change))
			got := w.inForce(t)
			condition := model.ConditionAccepted
			if c.partial {
				condition = model.ConditionPartiallyInvalid
			}
			if (got != nil) != c.partial || got != nil && (got.Collector == nil || len(got.Attributes) > 0) {
				t.Errorf("%+v is in force", got)
			}
			if says := w.telemetryCondition("p", condition); !strings.HasPrefix(says, "!") || !strings.Contains(says, c.says) || strings.Contains(says, secret) {
				t.Errorf("%s: %s", condition, says)
			}
		})
	}
}

// TestManyTelemetryPolicies: a change of one of many policies for a Gateway is judged by itself.
func TestManyTelemetryPolicies(t *testing.T) {
	const many = 300
	w := telemetryWorld(t)
	for i := range many {
		w.put(t, enabled(fmt.Sprintf("p%03d", i), i, nil))
	}
	w.Sync()
	runs := 0
	compute := telemetryPolicyUnits.compute
	telemetryPolicyUnits.compute = func(v *view, key string) ([]output, bool) {
		runs++
		return compute(v, key)
	}
	t.Cleanup(func() { telemetryPolicyUnits.compute = compute })
	w.put(t, enabled("p200", 200, func(c *gwxv1.TracingConfig) { c.ServiceName = "other" }))
	w.Sync()
	if runs != 1 {
		t.Errorf("%d policies are judged again, of which one has changed", runs)
	}
	if got := w.inForce(t); got.Policy.Name != "p000" {
		t.Errorf("%s is in force", got.Policy.Name)
	}
}

// TestTelemetryHeadersStayIn: values of headers are in no text that is made of a Gateway or of a status.
func TestTelemetryHeadersStayIn(t *testing.T) {
	w := telemetryWorld(t)
	w.put(t, enabled("p", 1, func(c *gwxv1.TracingConfig) {
		c.Provider.Headers = []gwv1.HTTPHeader{{Name: "Authorization", Value: "Bearer hunter2"}}
	}))
	got := w.inForce(t)
	if h := got.Collector.Headers; len(h) != 1 || h[0].Name != "authorization" || h[0].Value != "Bearer hunter2" {
		t.Fatal("the Gateway has not got the header")
	}
	all := text(t, w.model(), w.statuses())
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		all += fmt.Sprintf(format, *got.Collector)
	}
	if strings.Contains(all, "hunter2") {
		t.Error("the value of a header is printed")
	}
	if !strings.Contains(all, "authorization") {
		t.Error("the name of a header is not printed")
	}
}

// FuzzSpanAttribute: what is taken is of a form that Envoy takes.
func FuzzSpanAttribute(f *testing.F) {
	f.Add("Header", "X-User", "", "")
	f.Add("Literal", "", "100%", "")
	f.Add("Attribute", "", "", "http.request.header.x-user")
	f.Add("Attribute", "", "", "http.response.header.a)%")
	f.Fuzz(func(t *testing.T, source, header, literal, key string) {
		a, reason := spanAttribute(&gwxv1.Attribute{
			Name: "a", SourceType: gwxv1.AttributeSourceType(source), HeaderName: gwv1.HTTPHeaderName(header), LiteralValue: literal, AttributeKey: key,
		})
		if reason != "" {
			return
		}
		set := 0
		for _, s := range []string{a.Literal, a.Header, a.Key} {
			if s != "" {
				set++
			}
		}
		if set != 1 || strings.ContainsAny(a.Header+a.Key, ")\"\\\r\n :") {
			t.Errorf("%+v is taken", a)
		}
	})
}
