package http

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// exchange is a case.
type exchange struct {
	name    string
	request string              // as it is written; a GET of / if it is ""
	h2      func(*http.Request) // asks by HTTP/2 instead, with what this changes
	answer  string              // as it is written; a 200 if it is ""
	early   bool                // the server answers when it has the head of the request, and closes
	closes  bool                // the server closes after the answer
	half    bool                // the client ends its side (shutdown) after the request
	slow    time.Duration       // how long the server takes for the answer
	cold    bool                // it is also played as the first request that the node's Envoy sees for a Service
	// talk is what the client does after a 101, after what the server does.
	talk   func(io.ReadWriter) string
	after  func(io.ReadWriter)
	except []exception
}

// exception is a difference that is meant.
type exception struct {
	ways   string // a part of the names of the ways that it concerns; "" is all
	reason string
	want   func(want *result, got result) // changes the direct result to what the way gives
}

const (
	ok       = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	shopHost = "Host: shop.example\r\n"
)

// thinks is longer than Envoy takes to see that a client has ended its side, and longer than the end is kept back for an inspection.
const thinks = 800 * time.Millisecond

// halfClosed: Envoy drops a request whose client has ended its side. The kernel keeps the end of a pod's connection back, where it is
// known to be for requests. A Gateway drops such requests (droppedAtGateway).
var halfClosed = []exception{anything("may speak anything", "the server of what is no request may wait for the end")}

// anything lets a way give what it gives.
func anything(ways, reason string) exception {
	return exception{ways, reason, func(want *result, got result) { *want = got }}
}

func get(target string) string { return "GET " + target + " HTTP/1.1\r\n" + shopHost + "\r\n" }

func method(m string) string { return m + " /m HTTP/1.1\r\n" + shopHost + "\r\n" }

func withFields(f string) string {
	return "GET / HTTP/1.1\r\n" + shopHost + strings.ReplaceAll(f, "\n", "\r\n") + "\r\n\r\n"
}

func withHost(h string) string { return "GET / HTTP/1.1\r\nHost: " + h + "\r\n\r\n" }

func answer(status, rest string) string {
	return "HTTP/1.1 " + status + "\r\n" + strings.ReplaceAll(rest, "\n", "\r\n")
}

func manyFields(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "X-Field-%d: %d\r\n", i, i)
	}
	return b.String()
}

func upgrade(to, verb, body string) string {
	return verb + " /up HTTP/1.1\r\n" + shopHost + "Connection: Upgrade\r\nUpgrade: " + to + "\r\n" + body
}

// echoing switches protocols and says again what it gets.
func echoing(to string) exchange {
	return exchange{
		cold:    true,
		name:    "upgrade to " + to + " that the server takes",
		request: upgrade(to, "GET", "\r\n"),
		answer:  "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + to + "\r\n\r\n",
		after: func(rw io.ReadWriter) {
			line, _ := bufio.NewReader(rw).ReadString('\n')
			_, _ = io.WriteString(rw, "you said "+line)
		},
		talk: func(rw io.ReadWriter) string {
			_, _ = io.WriteString(rw, "hello\n")
			line, err := bufio.NewReader(rw).ReadString('\n')
			return fmt.Sprint(line, err)
		},
	}
}

var cases = append(methods(), []exchange{
	{name: "method QUERY", request: "QUERY /m HTTP/1.1\r\n" + shopHost + "Content-Type: text/plain\r\nContent-Length: 1\r\n\r\nq"},
	// Targets.
	{name: "no path", request: get("/")},
	{name: "query without a path", request: get("/?a=1")},
	{name: "empty query", request: get("/a?")},
	{name: "pipe and braces", request: get("/a|b{c}?d|e"), except: []exception{normal("/a%7Cb%7Bc%7D?d|e")}},
	{name: "escaped tilde", request: get("/%7Euser/%7euser"), except: []exception{normal("/~user/~user")}},
	{name: "escaped slash", request: get("/a%2Fb%2fc"), except: []exception{refused("policy", "400", "a policy that compares paths cannot know whether the server takes %2F for a slash")}},
	{name: "double slash", request: get("//a//b"), except: []exception{in("policy", normal("/a/b"))}},
	{name: "parameters", request: get("/a;v=1/b,c:d@e!$&'()*+=")},
	{name: "query that is no escape", request: get("/a?x=%zz&y=%")},
	{name: "escape in lower case", request: get("/caf%c3%a9?q=%c3%a9")},
	{name: "long target", request: get("/" + strings.Repeat("p", 8000))},
	{name: "absolute form", request: "GET http://shop.example/abs?x=1 HTTP/1.1\r\n" + shopHost + "\r\n", except: []exception{toOrigin}},
	{name: "asterisk", request: "OPTIONS * HTTP/1.1\r\n" + shopHost + "\r\n", except: []exception{refused("", "404", "Envoy serves no request without a path")}},
	// Hosts.
	{name: "host with a port", request: withHost("shop.example:80")},
	{name: "host with another port", request: withHost("shop.example:8080")},
	{name: "host with a dot at the end", request: withHost("shop.example.")},
	{name: "host with a dot and a port", request: withHost("shop.example.:80")},
	{name: "host in upper case", request: withHost("SHOP.Example")},
	{name: "HTTP/1.0 with a host", cold: true, request: "GET /ten HTTP/1.0\r\n" + shopHost + "\r\n"},
	{name: "HTTP/1.0 without a host", request: "GET /ten HTTP/1.0\r\n\r\n", except: []exception{hostOfItsOwn, refused("Gateway", "404", "no route has that host")}},
	// Fields.
	{name: "150 fields", request: withFields(strings.TrimSuffix(strings.ReplaceAll(manyFields(150), "\r\n", "\n"), "\n"))},
	{name: "900 fields", request: withFields(strings.TrimSuffix(strings.ReplaceAll(manyFields(900), "\r\n", "\n"), "\n"))},
	{name: "150 fields in the answer", answer: answer("200 OK", "Content-Length: 2\n") + manyFields(150) + "\r\nok"},
	{name: "900 fields in the answer", answer: answer("200 OK", "Content-Length: 2\n") + manyFields(900) + "\r\nok"},
	{name: "a field of 40 KB", request: withFields("X-Large: " + strings.Repeat("v", 40<<10))},
	{name: "a field of 40 KB in the answer", answer: answer("200 OK", "Content-Length: 0\nX-Large: "+strings.Repeat("v", 40<<10)+"\n\n")},
	{name: "empty field", request: withFields("X-Empty:")},
	{name: "repeated fields", request: withFields("X-A: 1\nX-B: 2\nX-A: 3\nCookie: a=1\nCookie: b=2")},
	{name: "repeated fields in the answer", answer: answer("200 OK", "Content-Length: 0\nSet-Cookie: a=1; Path=/\nSet-Cookie: b=2\nVary: a\nVary: b\n\n")},
	{name: "underscore in a field's name", request: withFields("x_under_score: 1")},
	{name: "bytes above 127", request: withFields("X-Latin: caf\xe9\nX-UTF: caf\xc3\xa9")},
	{name: "fields of proxies", request: withFields("Forwarded: for=1.2.3.4\nVia: 1.1 before\nX-Real-Ip: 1.2.3.4")},
	{name: "fields that say who asks", request: withFields("X-Forwarded-For: 1.2.3.4\nX-Forwarded-Proto: https\nX-Forwarded-Host: a.example\nX-Forwarded-Port: 443\n" +
		"X-Forwarded-Client-Cert: Hash=ab;Subject=\"CN=a\""), except: []exception{untrusted}},
	{name: "fields of tracing", request: withFields("X-Request-Id: 7\nTraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\nTracestate: a=b\n" +
		"B3: 4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1\nX-B3-Traceid: 1\nX-Cloud-Trace-Context: 1\nX-Ot-Span-Context: 1\nX-Client-Trace-Id: 9\nBaggage: k=v")},
	{name: "fields of Envoy", request: withFields("X-Envoy-Retry-On: 5xx\nX-Envoy-Upstream-Rq-Timeout-Ms: 1\nX-Envoy-Max-Retries: 9\nX-Envoy-Decorator-Operation: a\nX-Envoy-Original-Path: /a"), except: []exception{steersEnvoy, fromOutside}},
	{name: "authorization and proxies' authorization", request: withFields("Authorization: Basic YTpi\nProxy-Authorization: Basic YTpi")},
	{name: "user agent and encodings", request: withFields("User-Agent: Mozilla/5.0 (X11)\nAccept-Encoding: gzip, br\nRange: bytes=0-1\nIf-None-Match: \"a\"")},
	{name: "server and date of the answer", answer: answer("200 OK", "Content-Length: 0\nServer: mine/1\nDate: Sat, 01 Jan 2000 00:00:00 GMT\nVia: 1.1 me\nAlt-Svc: h3=\":443\"\n\n")},
	{name: "te", request: withFields("TE: trailers")},
	// Bodies.
	{name: "POST without a body", request: "POST /b HTTP/1.1\r\n" + shopHost + "Content-Length: 0\r\n\r\n"},
	// Clients that end their side after the request, and wait for the answer: nc -N.
	{name: "HTTP/1.0 from a client that ends its side", half: true, slow: thinks, request: "GET /ten HTTP/1.0\r\n" + shopHost + "\r\n", except: halfClosed},
	{name: "GET from a client that ends its side", half: true, slow: thinks, cold: true, except: halfClosed},
	{name: "POST from a client that ends its side", half: true, slow: thinks, request: "POST /b HTTP/1.1\r\n" + shopHost + "Content-Length: 4\r\n\r\nbody", except: halfClosed},
	{name: "download of 1 MB by a client that ends its side", half: true, slow: thinks, answer: answer("200 OK", "Content-Length: 1048576\n\n") + strings.Repeat("d", 1<<20), except: halfClosed},
	{name: "GET with a body", request: "GET /b HTTP/1.1\r\n" + shopHost + "Content-Length: 4\r\n\r\nbody"},
	{name: "DELETE with a body", request: "DELETE /b HTTP/1.1\r\n" + shopHost + "Content-Length: 4\r\n\r\nbody"},
	{name: "chunks with extensions", request: "POST /b HTTP/1.1\r\n" + shopHost + "Transfer-Encoding: chunked\r\n\r\n4;a=b\r\nbody\r\n0\r\n\r\n"},
	{name: "chunks with a trailer", request: "POST /b HTTP/1.1\r\n" + shopHost + "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n"},
	{name: "upload of 1 MB", cold: true, request: "PUT /b HTTP/1.1\r\n" + shopHost + "Content-Length: 1048576\r\n\r\n" + strings.Repeat("u", 1<<20)},
	{name: "download of 1 MB", answer: answer("200 OK", "Content-Length: 1048576\n\n") + strings.Repeat("d", 1<<20)},
	{name: "answer in chunks with a trailer", answer: answer("200 OK", "Transfer-Encoding: chunked\nTrailer: X-Sum\n\n4\nbody\n0\nX-Sum: 1\n\n")},
	{name: "answer that ends with the connection", answer: answer("200 OK", "Content-Type: text/plain\n\nuntil the end"), closes: true},
	{name: "answer that is cut", answer: answer("200 OK", "Content-Length: 10\n\ncut"), closes: true},
	{name: "answer in chunks that is cut", answer: answer("200 OK", "Transfer-Encoding: chunked\n\n4\nbody\n"), closes: true},
	{name: "HEAD", request: "HEAD /b HTTP/1.1\r\n" + shopHost + "\r\n", answer: answer("200 OK", "Content-Length: 42\nX-A: b\n\n")},
	{name: "204", answer: answer("204 No Content", "X-A: b\n\n")},
	{name: "304 with a length", answer: answer("304 Not Modified", "Content-Length: 42\nEtag: \"a\"\n\n")},
	{name: "continue", request: "POST /b HTTP/1.1\r\n" + shopHost + "Content-Length: 4\r\nExpect: 100-continue\r\n\r\nbody"},
	{name: "early hints", answer: answer("103 Early Hints", "Link: </a.css>; rel=preload\n\n") + ok},
	{name: "status 299", answer: answer("299 Odd", "Content-Length: 0\n\n")},
	{name: "status 599", answer: answer("599 Odd", "Content-Length: 0\n\n")},
	{name: "status 421", answer: answer("421 Misdirected Request", "Content-Length: 0\n\n")},
	{name: "status 407", answer: answer("407 Proxy Authentication Required", "Proxy-Authenticate: Basic\nContent-Length: 0\n\n")},
	{name: "the server closes without an answer", answer: "", closes: true, except: []exception{badGateway, askedAgain}},
	{name: "the server closes without an answer to a POST", request: "POST /b HTTP/1.1\r\n" + shopHost + "Content-Length: 4\r\n\r\nbody", closes: true,
		except: []exception{badGateway}},
	{name: "413 while the client sends", request: "POST /b HTTP/1.1\r\n" + shopHost + "Content-Length: 4194304\r\n\r\n" + strings.Repeat("u", 4<<20),
		answer: answer("413 Too Large", "Content-Length: 0\nConnection: close\n\n"), early: true, except: []exception{badGateway}},
	{name: "encoded answer", answer: answer("200 OK", "Content-Encoding: gzip\nContent-Length: 4\n\ngzip")},
	// Upgrades.
	{name: "upgrade to TLS/1.2 that the server ignores", cold: true, request: upgrade("TLS/1.2", "GET", "\r\n"), except: []exception{hopByHop}},
	{name: "POST with an upgrade to TLS/1.2", cold: true, request: upgrade("TLS/1.2", "POST", "Content-Length: 4\r\n\r\nbody"), except: []exception{hopByHop}},
	{name: "upgrade to h2c that the server ignores", request: "GET /up HTTP/1.1\r\n" + shopHost + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", except: []exception{hopByHop}},
	{name: "upgrade to a websocket that the server refuses", cold: true, request: upgrade("websocket", "GET", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"),
		answer: answer("403 Forbidden", "X-Why: not here\nContent-Length: 4\n\nnope")},
	{name: "upgrade to a websocket that the server ignores", request: upgrade("websocket", "GET", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"), except: []exception{withoutBody}},
	{name: "upgrade to something that the server ignores", request: upgrade("foo/2", "GET", "\r\n"), except: []exception{hopByHop}},
	{name: "POST with an upgrade to something", cold: true, request: upgrade("foo/2", "POST", "Content-Length: 4\r\n\r\nbody"), except: []exception{hopByHop}},
	echoing("websocket"),
	echoing("SPDY/3.1"),
	echoing("tcp"),
	// HTTP/2.
	{name: "HTTP/2: GET", cold: true, h2: func(*http.Request) {}},
	{name: "HTTP/2: LIST", h2: func(r *http.Request) { r.Method = "LIST" }},
	{name: "HTTP/2: upload", cold: true, h2: func(r *http.Request) {
		r.Method, r.Body = "PUT", io.NopCloser(strings.NewReader(strings.Repeat("u", 1<<20)))
	}},
	{name: "HTTP/2: host with a port", h2: func(r *http.Request) { r.Host = "shop.example:8080" }},
	{name: "HTTP/2: host with a dot at the end", h2: func(r *http.Request) { r.Host = "shop.example." }},
	{name: "HTTP/2: 150 fields", h2: func(r *http.Request) {
		for i := range 150 {
			r.Header.Set(fmt.Sprint("X-Field-", i), "v")
		}
	}, answer: answer("200 OK", "Content-Length: 2\n") + manyFields(150) + "\r\nok"},
	{name: "HTTP/2: cookies", h2: func(r *http.Request) { r.Header.Set("Cookie", "a=1; b=2") }},
	{name: "HTTP/2: query without a path", h2: func(r *http.Request) { r.URL.RawQuery = "a=%7E|" }},
	{name: "HTTP/2: trailers of the answer", answer: answer("200 OK", "Transfer-Encoding: chunked\nTrailer: X-Sum\n\n4\nbody\n0\nX-Sum: 1\n\n"), h2: func(*http.Request) {}},
}...)

// Reasons for which a way differs.
var (
	// toOrigin: RFC 9112 3.2.1.
	toOrigin = exception{reason: "a proxy asks the origin in origin form", want: func(want *result, _ result) {
		want.Server[0].Start = strings.Replace(want.Server[0].Start, "http://shop.example", "", 1)
	}}
	untrusted = exception{ways: "Gateway", reason: "a client must not say who it is, nor how it came", want: func(want *result, got result) {
		withoutFields(want, "x-forwarded-client-cert")
		fields := want.Server[0].Fields
		fields[slices.Index(fields, "x-forwarded-proto: https")] = "x-forwarded-proto: http"
		client := "x-forwarded-for: 1.2.3.4,10.87.0."
		if i := slices.IndexFunc(got.Server[0].Fields, func(f string) bool { return strings.HasPrefix(f, client) }); i >= 0 {
			fields[slices.Index(fields, "x-forwarded-for: 1.2.3.4")] = got.Server[0].Fields[i]
		}
	}}
	fromOutside = exception{ways: "Gateway", reason: "fields of Envoy that come from outside are removed", want: func(want *result, _ result) {
		withoutFields(want, "x-envoy-decorator-operation", "x-envoy-original-path")
	}}
	hopByHop = exception{reason: "Upgrade is for the next hop, and an upgrade that is not carried is not passed on (RFC 9110 7.8)", want: func(want *result, _ result) {
		withoutFields(want, "upgrade", "http2-settings")
	}}
	hostOfItsOwn = exception{reason: "HTTP/1.1 takes a host (RFC 9112 3.2)", want: func(want *result, _ result) {
		want.Server[0].Fields = append([]string{"host: no-host.invalid"}, want.Server[0].Fields...)
	}}
	badGateway = exception{reason: "the proxy has to say something", want: func(want *result, got result) {
		if got.Client[0].Start == "503" {
			want.Client = got.Client
		}
	}}
	askedAgain = exception{reason: "a proxy may ask an idempotent request again (RFC 9110 9.2.2)", want: func(want *result, got result) {
		want.Server = slices.Repeat(want.Server, len(got.Server))
	}}
	withoutBody = exception{reason: "Envoy passes on no body of a 2xx that answers an upgrade that it carries", want: func(want *result, _ result) {
		want.Client[0].Body = ""
	}}
	steersEnvoy = exception{reason: "fields that steer Envoy are not taken from clients", want: func(want *result, _ result) {
		withoutFields(want, "x-envoy-retry-on", "x-envoy-upstream-rq-timeout-ms", "x-envoy-max-retries")
	}}
)

func withoutFields(r *result, names ...string) {
	for i := range r.Server {
		r.Server[i].Fields = slices.DeleteFunc(r.Server[i].Fields, func(f string) bool {
			name, _, _ := strings.Cut(f, ":")
			return slices.Contains(names, name)
		})
	}
}

// normal: routes and policies compare paths in their normal form, and a request for another path than was allowed must not
// pass.
func normal(path string) exception {
	return exception{reason: "paths are compared, and sent on, in their normal form", want: func(want *result, _ result) {
		method, _, _ := strings.Cut(want.Server[0].Start, " ")
		want.Server[0].Start = method + " " + path
	}}
}

func in(way string, e exception) exception {
	e.ways = way
	return e
}

// refused: the server sees nothing of the request.
func refused(way, status, reason string) exception {
	return exception{ways: way, reason: reason, want: func(want *result, got result) {
		want.Server = nil
		want.Client = []message{{Start: status, Body: got.Client[0].Body, Fields: got.Client[0].Fields}}
	}}
}

// methods are an open set (RFC 9110 9.1).
func methods() (out []exchange) {
	for _, m := range []string{
		"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "LIST", "BAN", "PURGE", "PROPFIND", "REPORT", "MKCOL", "LOCK",
		"SEARCH", "VERSION-CONTROL", "M-SEARCH", "BASELINE-CONTROL", "get", "X_METHOD",
	} {
		out = append(out, exchange{name: "method " + m, request: method(m)})
	}
	return out
}
