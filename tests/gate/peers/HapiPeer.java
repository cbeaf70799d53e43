import ca.uhn.hl7v2.DefaultHapiContext;
import ca.uhn.hl7v2.app.Connection;
import ca.uhn.hl7v2.app.HL7Service;
import ca.uhn.hl7v2.llp.MinLowerLayerProtocol;
import ca.uhn.hl7v2.model.Message;
import ca.uhn.hl7v2.protocol.ReceivingApplication;
import ca.uhn.hl7v2.protocol.Transportable;
import ca.uhn.hl7v2.util.idgenerator.InMemoryIDGenerator;
import ca.uhn.hl7v2.validation.impl.ValidationContextFactory;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** HAPI's client and server. The roles are those of `conversation.cjs`; it waits for each answer. */
public class HapiPeer {
  private static DefaultHapiContext context() {
    DefaultHapiContext context = new DefaultHapiContext();
    context.setValidationContext(ValidationContextFactory.noValidation());
    MinLowerLayerProtocol protocol = new MinLowerLayerProtocol();
    protocol.setCharset(StandardCharsets.UTF_8);
    context.setLowerLayerProtocol(protocol);
    context.getParserConfiguration().setIdGenerator(new InMemoryIDGenerator()); // by default a file in the working folder
    return context;
  }

  private static void serve() throws Exception {
    int port;
    try (ServerSocket probe = new ServerSocket(0)) {
      port = probe.getLocalPort();
    }
    HL7Service server = context().newServer(port, false);
    server.registerApplication(new ReceivingApplication<Message>() {
      @Override
      public Message processMessage(Message message, Map<String, Object> metadata) {
        try {
          String text = message.encode();
          byte[] hash = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
          System.out.println(HexFormat.of().formatHex(hash) + " " + text.split("\\|")[9]);
          return message.generateACK();
        } catch (Exception fault) {
          throw new IllegalStateException(fault);
        }
      }

      @Override
      public boolean canProcess(Message message) {
        return true;
      }
    });
    server.startAndWait();
    System.out.println(port);
  }

  private static void send(int port, String plan) throws Exception {
    DefaultHapiContext context = context();
    Connection connection = null;
    for (String text : messages(plan)) {
      if (connection == null) {
        connection = context.newClient("127.0.0.1", port, false);
        connection.getInitiator().setTimeout(60, TimeUnit.SECONDS);
      }
      Message answer = connection.getInitiator().sendAndReceive(context.getPipeParser().parse(text));
      System.out.println(answer.encode().split("\r")[1]);
      if (plan.contains("\"each\": true")) {
        connection.close();
        connection = null;
      }
    }
    if (connection != null) {
      connection.close();
    }
    System.exit(0);
  }

  /** The strings of the first list in a JSON object, which is all that a plan has. */
  private static List<String> messages(String plan) {
    List<String> found = new ArrayList<>();
    StringBuilder text = null;
    for (int at = plan.indexOf('[') + 1; text != null || plan.charAt(at) != ']'; at++) {
      char one = plan.charAt(at);
      if (one == '"' && text == null) {
        text = new StringBuilder();
      } else if (one == '"') {
        found.add(text.toString());
        text = null;
      } else if (one == '\\' && plan.charAt(at + 1) == 'u') {
        text.append((char) Integer.parseInt(plan.substring(at + 2, at + 6), 16));
        at += 5;
      } else if (one == '\\') {
        at++;
        text.append(plan.charAt(at) == 'r' ? '\r' : plan.charAt(at));
      } else if (text != null) {
        text.append(one);
      }
    }
    return found;
  }

  public static void main(String[] arguments) throws Exception {
    if (arguments[0].equals("server")) {
      serve();
    } else {
      send(Integer.parseInt(arguments[1]), Files.readString(Path.of(arguments[2])));
    }
  }
}
