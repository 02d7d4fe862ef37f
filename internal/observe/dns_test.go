package observe

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// dnsText is a message with a question; with answers it is an answer.
func dnsText(t testing.TB, id uint16, name string, code dnsmessage.RCode, response bool, answers int) []byte {
	t.Helper()
	n := dnsmessage.MustNewName(name)
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, Response: response, RCode: code},
		Questions: []dnsmessage.Question{{Name: n, Type: dnsmessage.TypeAAAA, Class: dnsmessage.ClassINET}},
	}
	for range answers {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: n, Class: dnsmessage.ClassINET}, Body: &dnsmessage.AAAAResource{},
		})
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadDNS(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		want DNS
	}{
		{"question", dnsText(t, 1, "web.shop.svc.", 0, false, 0), DNS{Name: "web.shop.svc", Type: "AAAA"}},
		{"answer", dnsText(t, 1, "web.shop.svc.", 0, true, 2), DNS{Name: "web.shop.svc", Type: "AAAA", Code: "NOERROR", Answers: 2}},
		{"no such name", dnsText(t, 1, "x.", dnsmessage.RCodeNameError, true, 0), DNS{Name: "x", Type: "AAAA", Code: "NXDOMAIN"}},
		{"code without a name", dnsText(t, 1, "x.", 12, true, 0), DNS{Name: "x", Type: "AAAA", Code: "RCODE12"}},
		{"root", dnsText(t, 1, ".", 0, false, 0), DNS{Name: ".", Type: "AAAA"}},
		{"for a terminal", dnsText(t, 1, "a\x1b[2J\\\n\xff.", 0, false, 0), DNS{Name: `a\027[2J\092\010\255`, Type: "AAAA"}},
		{"cut", dnsText(t, 1, "web.shop.svc.", 0, true, 9)[:40], DNS{Name: "web.shop.svc", Type: "AAAA", Code: "NOERROR", Answers: 9}},
		{"header alone", dnsText(t, 1, "x.", 0, false, 0)[:dnsHeader], DNS{}},
	} {
		if _, got, err := readDNS(c.data); err != nil || got != c.want {
			t.Errorf("%s: %+v, error %v, want %+v", c.name, got, err, c.want)
		}
	}
	if _, _, err := readDNS(make([]byte, dnsHeader-1)); err == nil {
		t.Error("what is shorter than a header is read")
	}
	for typ, want := range map[dnsmessage.Type]string{dnsmessage.TypeA: "A", 65: "HTTPS", 4711: "TYPE4711"} {
		if got := dnsType(typ); got != want {
			t.Errorf("type %d is %s, want %s", typ, got, want)
		}
	}
}

func FuzzDNS(f *testing.F) {
	f.Add(dnsText(f, 7, "web.shop.svc.", 0, true, 1))
	f.Add(dnsText(f, 7, ".", 3, true, 0))
	f.Add([]byte("\x00\x07\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01")) // a name that points at itself
	f.Fuzz(func(t *testing.T, data []byte) {
		_, d, err := readDNS(data)
		if err != nil {
			return
		}
		printable := func(r rune) bool { return r > ' ' && r <= '~' }
		for _, s := range []string{d.Name, d.Type, d.Code} {
			if len(s) > 4*255 || strings.TrimFunc(s, printable) != "" {
				t.Errorf("%q", s)
			}
		}
		if _, ok := d.CodeNumber(); ok != (d.Code != "") {
			t.Errorf("code %q", d.Code)
		}
	})
}

var dnsClient, dnsServer = netip.MustParseAddrPort("10.0.0.1:40000"), netip.MustParseAddrPort("10.0.0.2:53")

// datagrams returns a question and its answer, 3 ms later.
func datagrams(t *testing.T, id uint16, at time.Time) (question, answer DNSDatagram) {
	q, a := dnsText(t, id, "web.", 0, false, 0), dnsText(t, id, "web.", 0, true, 1)
	question = DNSDatagram{Time: at, Client: dnsClient, Server: dnsServer, AtClient: true, Length: len(q), Data: q}
	answer = DNSDatagram{Time: at.Add(3 * time.Millisecond), Client: dnsClient, Server: dnsServer, AtClient: true, Length: len(a), Data: a}
	return question, answer
}

func TestQueries(t *testing.T) {
	var q Queries
	at := time.Unix(1_900_000_000, 0)
	want := func(what string, x *DNSExchange, took time.Duration, code string, sent, received int) {
		t.Helper()
		if x == nil || x.Took != took || x.Code != code || x.Sent != sent || x.Received != received || x.Client != dnsClient {
			t.Errorf("%s: %+v", what, x)
		}
	}
	question, answer := datagrams(t, 1, at)
	other, otherAnswer := datagrams(t, 2, at.Add(time.Millisecond))
	again := question
	again.Time = at.Add(time.Millisecond)
	for _, d := range []DNSDatagram{question, other, again} {
		if x, lost := q.Take(d); x != nil || lost {
			t.Errorf("a question: %+v, lost %v", x, lost)
		}
	}
	atServer := answer
	atServer.AtClient = false
	x, _ := q.Take(atServer)
	want("an answer whose question was not seen", x, 0, "NOERROR", 0, len(answer.Data))
	x, _ = q.Take(answer)
	want("an answer, since the first question", x, 3*time.Millisecond, "NOERROR", len(question.Data), len(answer.Data))
	if got := q.Unanswered(at.Add(QueryTimeout)); got != nil {
		t.Errorf("too early: %+v", got)
	}
	late := q.Unanswered(at.Add(QueryTimeout + time.Millisecond))
	if len(late) != 1 || len(q.waiting)+len(q.of) != 0 {
		t.Fatalf("%d without an answer; waiting %v", len(late), q.waiting)
	}
	want("no answer", late[0], QueryTimeout, "", len(other.Data), 0)
	x, _ = q.Take(otherAnswer)
	want("a late answer", x, 0, "NOERROR", 0, len(otherAnswer.Data))
	if x, lost := q.Take(DNSDatagram{Data: []byte("short")}); x != nil || lost {
		t.Errorf("no message: %+v", x)
	}
}

// TestQueriesUnderOneNumber: a client chooses the numbers of its questions, and whoever answers the question in its answer. No
// question hides behind another.
func TestQueriesUnderOneNumber(t *testing.T) {
	at := time.Unix(1_900_000_000, 0)
	question, answer := datagrams(t, 1, at)
	rename := func(d DNSDatagram) DNSDatagram {
		d.Data = slices.Clone(d.Data)
		d.Data[dnsHeader+1] ^= 1
		return d
	}
	hidden, forged := rename(question), rename(answer)
	var q Queries
	if x, lost := q.Take(question); x != nil || lost {
		t.Fatalf("a question: %+v, lost %v", x, lost)
	}
	x, _ := q.Take(forged)
	if x == nil || x.Sent != 0 || x.Took != 0 || q.Waiting() != 1 {
		t.Errorf("an answer to another question: %+v, %d wait", x, q.Waiting())
	}
	first := x
	x, lost := q.Take(hidden)
	if x == nil || lost || x.Code != "" || x.Sent == 0 || x.Name == first.Name || q.Waiting() != 1 {
		t.Errorf("another question under the same number: %+v, lost %v, %d wait", x, lost, q.Waiting())
	}
	x, _ = q.Take(forged)
	if x == nil || x.Code != "NOERROR" || x.Sent == 0 || x.Name != first.Name || q.Waiting() != 0 {
		t.Errorf("its answer: %+v, %d wait", x, q.Waiting())
	}
	q.Take(question)
	refusal := answer
	refusal.Data = slices.Clone(answer.Data[:dnsHeader])
	refusal.Data[5] = 0 // no question
	if x, _ := q.Take(refusal); x == nil || x.Sent == 0 {
		t.Errorf("an answer that repeats no question: %+v", x)
	}
}

// TestQueriesAreBounded: one address cannot take the room of others, and nobody can take more than there is.
func TestQueriesAreBounded(t *testing.T) {
	var q Queries
	question, _ := datagrams(t, 0, time.Now())
	ask := func(address netip.Addr, n int) (lost int) {
		for i := range n {
			question.Client = netip.AddrPortFrom(address, uint16(i))
			if _, l := q.Take(question); l {
				lost++
			}
		}
		return lost
	}
	address := dnsClient.Addr()
	if lost := ask(address, maxQueriesOfOne+10); lost != 10 {
		t.Errorf("of one address, %d are lost", lost)
	}
	for range 2 * maxQueries / maxQueriesOfOne {
		address = address.Next()
		ask(address, maxQueriesOfOne)
	}
	if len(q.waiting) != maxQueries {
		t.Errorf("%d wait, want %d", len(q.waiting), maxQueries)
	}
}

func TestFilterDNS(t *testing.T) {
	f := &Flow{DNS: &DNS{Name: "web.Shop.svc"}}
	for value, want := range map[string]bool{
		"web.shop.svc": true, "WEB.SHOP.SVC.": true, "*.svc": true, "*.shop.svc": true, "*": true, "*.web.shop.svc": false, "shop.svc": false, "!*.svc": false,
	} {
		if got := filter(t, Terms{Query: []string{value}}).Match(f); got != want {
			t.Errorf("%s: %v", value, got)
		}
	}
	for value, want := range map[string]bool{"dns": true, "http": false, "!HTTP": true} {
		if got := filter(t, Terms{Protocol: []string{value}}).Match(f); got != want {
			t.Errorf("protocol %s: %v", value, got)
		}
	}
	if filter(t, Terms{Query: []string{"*"}}).Match(&Flow{}) {
		t.Error("a flow without a question is taken")
	}
	for _, bad := range []string{"", ".*", "a*b", "*.*.x", "*x"} {
		if _, err := (Terms{Query: []string{bad}}).Filter(); err == nil || !strings.HasPrefix(err.Error(), "query: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if !slices.Contains(dnsCodes, "NXDOMAIN") {
		t.Error("no name for NXDOMAIN")
	}
}

// TestQueriesByTCP: a stream has what looks like a message, and questions by TCP are others than those by UDP.
func TestQueriesByTCP(t *testing.T) {
	var q Queries
	message := func(tcp bool, data []byte) DNSDatagram {
		return DNSDatagram{
			Client: netip.MustParseAddrPort("10.0.0.1:4000"), Server: netip.MustParseAddrPort("10.0.0.2:53"), AtClient: true, TCP: tcp, Length: len(data), Data: data,
		}
	}
	for name, data := range map[string][]byte{
		"an answer to no question": dnsText(t, 7, "web.", 0, true, 1), "no question": {0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xff, 0xff},
	} {
		if x, lost := q.Take(message(true, data)); x != nil || lost || q.Waiting() != 0 {
			t.Errorf("%s: %+v, %v, %d wait", name, x, lost, q.Waiting())
		}
	}
	for _, tcp := range []bool{true, false} {
		q.Take(message(tcp, dnsText(t, 7, "web.", 0, false, 0)))
	}
	if q.Waiting() != 2 {
		t.Errorf("%d wait, want 2", q.Waiting())
	}
	if x, _ := q.Take(message(true, dnsText(t, 7, "other.", 0, true, 1))); x != nil {
		t.Errorf("an answer to another question: %+v", x)
	}
	x, _ := q.Take(message(true, dnsText(t, 7, "web.", 0, true, 1)))
	if x == nil || !x.TCP || x.Answers != 1 || q.Waiting() != 1 {
		t.Errorf("%+v, %d wait", x, q.Waiting())
	}
}
