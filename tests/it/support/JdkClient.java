import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.Arrays;

/** Sends a GET and a POST, twice each, with the JDK's own client as it comes, and prints what was answered. */
class JdkClient {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        URI uri = URI.create(arguments[0]);
        // More than the first buffers on the way.
        byte[] bytes = new byte[100_000];
        Arrays.fill(bytes, (byte) 'x');
        for (int round = 0; round < 2; round++) {
            for (String method : new String[] {"GET", "POST"}) {
                HttpRequest.BodyPublisher body = method.equals("GET")
                    ? HttpRequest.BodyPublishers.noBody()
                    : HttpRequest.BodyPublishers.ofByteArray(bytes);
                HttpRequest request = HttpRequest.newBuilder(uri)
                    .header("Authorization", "Bearer " + arguments[1])
                    .method(method, body)
                    .build();
                HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
                System.out.println(method + " " + answer.statusCode() + " " + answer.version() + " " + answer.body());
            }
        }
    }
}
